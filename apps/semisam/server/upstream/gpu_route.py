"""``GET /logs/gpu`` on a machine without a GPU.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/logs.py``, ``gpu_info``.
- Wrong: it runs ``nvidia-smi`` without looking whether there is one, and the client gets a bare 500. It also holds up
  all other requests meanwhile.
- Done: a route before MONAI Label's, which says that there is nothing to show (404), and waits in a thread.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/logs.py
"""

from __future__ import annotations

import subprocess

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from .routes import first_time, put_first

PATH = "/logs/gpu"
_SECONDS = 60.0


def install(app: FastAPI) -> None:
    """Put the route in the place of MONAI Label's; once, however often the app is loaded."""
    if not first_time(app, "gpu"):
        return
    router = APIRouter(tags=["Others"])
    admin = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))

    @router.get(PATH, include_in_schema=False)
    def gpu_info(user: User = admin) -> Response:
        return Response(shown(), media_type="text/plain")

    put_first(app, router)


def shown() -> bytes:
    """What ``nvidia-smi`` prints.

    Raises:
        HTTPException: (404) where there is none.
    """
    try:
        return subprocess.run(["nvidia-smi"], stdout=subprocess.PIPE, check=False, timeout=_SECONDS).stdout
    except FileNotFoundError as error:
        text = "This machine has no NVIDIA GPU, or no nvidia-smi: there is nothing to show."
        raise HTTPException(404, text) from error
