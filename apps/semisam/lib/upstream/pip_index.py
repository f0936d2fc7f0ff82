"""The package index that pip asks when nobody names one.

- Package: pip 23.2.1, ``pip/_internal/models/index.py``.
- Lacks: a public way to ask for it. ``pip config list`` tells only what somebody has set, and packagers of Python
  change pip's own value for their sites.
- Done: pip's private ``PyPI`` is read.
- Source: https://pip.pypa.io/en/stable/user_guide/#using-pip-from-your-program
"""

from __future__ import annotations


def index_of_pip() -> str | None:
    """The address, None without pip."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return None
    return str(PyPI.simple_url)
