"""``POST /infer/{model}``: the options are read before the work, and further kinds of output are left to the app.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/infer.py``, ``run_inference``.
- Wrong: options that are no JSON object give a bare 500. ``output=dicom_seg`` is refused (500) for every datastore but
  MONAI Label's own, after the work is done, and names segments by their position among those present. Kinds of output
  cannot be added.
- Done: the options are looked at first (400). For a DICOM SEG the app is told, by the option ``output``, to answer with
  one as its file: MONAI Label sends it as it would send any other file. So for ``output=probability``, which a route
  of ours lets through.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/infer.py,
  https://github.com/Project-MONAI/MONAILabel/pull/1561 (where the output came in)
"""

from __future__ import annotations

import json
import os
from typing import Any, Literal

import monailabel.endpoints.infer as endpoint
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, File, Form, UploadFile
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from server.errors import http_answers
from server.requests.infer_request import DICOM_SEG, OUTPUT, PROBABILITY

from .endpoint_input import check_upload, object_in
from .replacing import Function, arguments, replace
from .routes import first_time, put_first

_KIND = Literal["image", "json", "all", "dicom_seg", "probability"]


def install(app: FastAPI) -> None:
    """Wrap the function, and put a route that knows all kinds of output in its place; once."""
    replace(endpoint, "run_inference", _checked)
    if first_time(app, "infer"):
        _add_route(app)


def _add_route(app: FastAPI) -> None:
    router = APIRouter(prefix="/infer", tags=["Infer"], responses=endpoint.router.responses)
    user_role = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))

    @router.post("/{model}", summary=f"{endpoint.RBAC_USER}Run Inference for supported model")
    async def run_inference(  # noqa: PLR0917 (the query of MONAI Label's route)
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile = File(None),  # noqa: B008
        label: UploadFile = File(None),  # noqa: B008
        output: _KIND | None = None,
        user: User = user_role,
    ) -> Any:
        return endpoint.run_inference(background_tasks, model, image, session_id, params, file, label, output)

    put_first(app, router)


def _checked(own: Function) -> Function:
    def run_inference(*args: Any, **kwargs: Any) -> Any:
        call = arguments(own, args, kwargs)
        given = call.arguments
        with http_answers():
            options = object_in(given["params"]) if given["params"] else {}
            check_upload(given["file"])
            check_upload(given["label"])
        kind = getattr(given["output"], "value", given["output"])
        if kind not in (DICOM_SEG, PROBABILITY):
            return own(*call.args, **call.kwargs)
        given["params"] = json.dumps({**options, OUTPUT: kind})
        given["output"] = endpoint.ResultType.image
        answer = own(*call.args, **call.kwargs)
        if kind == PROBABILITY:
            return answer
        return FileResponse(answer.path, media_type="application/dicom", filename=os.path.basename(answer.path))

    return run_inference
