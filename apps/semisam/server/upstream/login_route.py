"""``POST /auth/token``: a wrong password is told as one.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/login.py``, ``access_token``.
- Wrong: when the log-in server refuses a user, the client gets a bare 500, as for every other error.
- Done: a route before MONAI Label's, which asks in the same way, and answers 401 when the log-in server has refused.
  When that server cannot be asked, the gate says so (502).
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/login.py
"""

from __future__ import annotations

import logging
from typing import Any

import monailabel.endpoints.login as endpoint
import requests
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordRequestForm
from monailabel.config import settings
from monailabel.endpoints.user.auth import Token

from .routes import first_time, put_first

logger = logging.getLogger("semisam.login")

PATH = "/auth/token"
REFUSED = "The log-in server does not know this user name with this password."


def install(app: FastAPI) -> None:
    """Put the route in the place of MONAI Label's, which is there only where log-ins are switched on."""
    if not settings.MONAI_LABEL_AUTH_ENABLE or not first_time(app, "login"):
        return
    router = APIRouter(tags=["Auth"])

    @router.post(PATH, response_model=Token, include_in_schema=False)
    async def access_token(form: OAuth2PasswordRequestForm = Depends()) -> Any:  # noqa: B008
        return await token_of(form)

    put_first(app, router)


async def token_of(form: OAuth2PasswordRequestForm) -> Any:
    """The log-in server's answer.

    Raises:
        HTTPException: (401) when it has refused.
        requests.RequestException: when it cannot be asked.
    """
    try:
        return await endpoint.access_token(form)
    except requests.HTTPError as error:
        logger.error("The log-in server has refused: %s", error)
        raise HTTPException(401, REFUSED) from error
