"""``POST /reload`` is gone.

- Package: MONAI Label 0.8.5, ``monailabel/app.py``, ``reload``.
- Wrong: anybody may ask for it, also without a log-in. The app that is loaded then is not told that it serves clients,
  and would no longer take labels of people.
- Done: the route is taken out.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/app.py
"""

from __future__ import annotations

from fastapi import FastAPI

from .routes import take_out

PATH = "/reload"


def install(app: FastAPI) -> None:
    """Take the route out of MONAI Label's web application."""
    take_out(app, PATH)
