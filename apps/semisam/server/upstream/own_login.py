"""MONAI Label's checks of roles, with users that the app itself knows.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/user/auth.py``, ``get_current_user`` and ``RBAC``.
- Wrong: it knows users of a Keycloak realm only, and looks at ``MONAI_LABEL_AUTH_ENABLE`` in part when it is imported,
  before it loads any app: without the log-in, every request comes from one user who may do everything.
- Done: FastAPI is told to ask us who the user is, and the setting is switched on, so that ``RBAC`` checks the roles.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/user/auth.py,
  https://fastapi.tiangolo.com/advanced/testing-dependencies/ (``dependency_overrides``)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from monailabel.config import settings
from monailabel.endpoints.user.auth import User, get_current_user


def install(app: FastAPI, current_user: Callable[..., Awaitable[User]]) -> None:
    """Let the app say who asks.

    Args:
        app: MONAI Label's web application.
        current_user: a dependency of FastAPI: given the request, who asks; raises HTTPException (401) for nobody.
    """
    settings.MONAI_LABEL_AUTH_ENABLE = True
    app.dependency_overrides[get_current_user] = current_user
