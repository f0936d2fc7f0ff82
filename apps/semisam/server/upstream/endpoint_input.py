"""What clients send is looked at before MONAI Label's endpoints work with it.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/{datastore,session,train,scoring,logs,wsi_infer}.py``.
- Wrong: the endpoints take any text for a JSON object, and any name for one that a file may have. What is wrong with a
  request shows as some exception of Python, and the client gets a bare 500.
- Done: each of these functions is wrapped by one that reads the texts and looks at the names first, and says what is
  wrong (400).
- Source: https://github.com/Project-MONAI/MONAILabel/tree/0.8.5/monailabel/endpoints

``infer`` and ``download_image`` have modules of their own, which do more.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, UploadFile
from fastapi.background import BackgroundTasks
from monailabel.config import settings
from monailabel.endpoints import datastore, logs, scoring, session, train, wsi_infer
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance
from pydantic import ValidationError

from lib.core.errors import UserError
from server.errors import http_answers

from .replacing import Function, arguments, replace
from .routes import first_time, put_first

logger = logging.getLogger("semisam.upstream")

PART = "A part of the request is missing, or is not what its address asks for, see /docs."
_JSON = (
    (datastore, "add_image", "params"),
    (datastore, "save_label", "params"),
    (datastore, "update_image_info", "info"),
    (datastore, "update_label_info", "info"),
)
"""Functions, and which of their arguments is the text of a JSON object."""
_FILES = {"add_image": "file", "save_label": "label"}
_ANY_JSON = ("save_label",)
"""Functions that leave it to the datastore to say that notes must be an object."""
_EMPTY_WILL_DO = ("params",)
"""Arguments whose empty text means an empty object."""
_WSI = "/infer/wsi_v2/{model}"
_LONGEST_NAME = 255
"""Bytes of a file's name on the usual file systems."""
_TEMPORARY_NAME = 11
"""Bytes that ``tempfile`` puts before the ending of an upload."""


def install(app: FastAPI) -> None:
    """Wrap the functions; once, however often the app is loaded."""
    for module, name, key in _JSON:
        replace(module, name, lambda own, key=key: _with_json(own, key))  # type: ignore[misc]
    replace(session, "create_session", _with_file_names)
    replace(wsi_infer, "run_wsi_inference", _with_upload)
    replace(train, "run", lambda own: _with_options(own, "trainers"))
    replace(scoring, "run", lambda own: _with_options(own, "scoring"))
    replace(logs, "get_logs", _with_lines)
    if first_time(app, "wsi"):
        _add_wsi_route(app)


def object_in(text: str) -> dict[str, Any]:
    """The JSON object in a text.

    Raises:
        UserError: when it is none.
    """
    content = json_in(text)
    if not isinstance(content, dict):
        raise UserError(PART)
    return content


def json_in(text: str) -> Any:
    """What a text of JSON holds.

    Raises:
        UserError: when it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"The request holds text that should be JSON and is not (line {error.lineno}).") from error
    except (ValueError, RecursionError) as error:  # numbers or lists that are too long for Python
        raise UserError(PART) from error


def check_upload(upload: UploadFile | None) -> None:
    """Raise UserError for an upload whose name has an ending that no temporary file can have."""
    name = (upload.filename or "") if upload is not None else ""
    _check_name("".join(PurePosixPath(name).suffixes), _LONGEST_NAME - _TEMPORARY_NAME)


def _check_name(name: str, longest: int) -> None:
    if "\0" in name or len(name.encode(errors="surrogatepass")) > longest:
        raise UserError(PART)


def _with_json(own: Function, key: str) -> Function:
    @http_answers()
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = arguments(own, args, kwargs).arguments
        if given[key] or key not in _EMPTY_WILL_DO:
            read = json_in if own.__name__ in _ANY_JSON else object_in
            read(given[key])
        if own.__name__ in _FILES:
            check_upload(given[_FILES[own.__name__]])
        return own(*args, **kwargs)

    return checked


def _with_file_names(own: Function) -> Function:
    @http_answers()
    def checked(*args: Any, **kwargs: Any) -> Any:
        for upload in arguments(own, args, kwargs).arguments["files"]:
            name = PurePosixPath(upload.filename or "").name or (upload.filename or "")
            _check_name(name, _LONGEST_NAME)
            if name in (".", ".."):
                raise UserError(PART)
        return own(*args, **kwargs)

    return checked


def _with_upload(own: Function) -> Function:
    @http_answers()
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_upload(arguments(own, args, kwargs).arguments["file"])
        return own(*args, **kwargs)

    return checked


def _with_options(own: Function, tasks: str) -> Function:
    """Wrap a function that starts all trainings or scorings: options may stand under the name of one of them."""

    @http_answers()
    def checked(*args: Any, **kwargs: Any) -> Any:
        params: Mapping[str, Any] = arguments(own, args, kwargs).arguments["params"] or {}
        for name in app_instance().info()[tasks] if params else ():
            if params.get(name) and not isinstance(params[name], Mapping):
                raise UserError(PART)
        return own(*args, **kwargs)

    return checked


def _with_lines(own: Function) -> Function:
    @http_answers()
    def checked(*args: Any, **kwargs: Any) -> Any:
        if arguments(own, args, kwargs).arguments["lines"] > sys.maxsize:
            raise UserError(PART)
        return own(*args, **kwargs)

    return checked


def _add_wsi_route(app: FastAPI) -> None:
    """Requests for whole-slide images: MONAI Label reads their options in the route itself."""
    router = APIRouter()
    user_role = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

    @router.post(_WSI, include_in_schema=False)
    async def run_wsi_inference(  # noqa: PLR0917 (the query of MONAI Label's route)
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        file: UploadFile = File(None),  # noqa: B008
        wsi: str = Form(wsi_infer.WSIInput().model_dump_json()),
        output: wsi_infer.ResultType | None = None,
        user: User = user_role,
    ) -> Any:
        with http_answers():
            try:
                asked = wsi_infer.WSIInput.model_validate(object_in(wsi))
            except ValidationError as error:
                raise UserError(PART) from error
        return wsi_infer.run_wsi_inference(background_tasks, model, image, session_id, file, asked, output)

    put_first(app, router)
