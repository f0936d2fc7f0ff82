"""``POST /infer/{model}``: the options are read before the work, and ``output=dicom_seg`` is left to the app.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/infer.py``, ``run_inference``.
- Wrong: options that are no JSON object give a bare 500. ``output=dicom_seg`` is refused (500) for every datastore but
  MONAI Label's own, after the work is done, and names segments by their position among those present.
- Done: the options are looked at first (400). For a DICOM SEG the app is told, by the option ``output``, to answer with
  one as its file: MONAI Label sends it as it would send any other file.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/infer.py,
  https://github.com/Project-MONAI/MONAILabel/pull/1561 (where the output came in)
"""

from __future__ import annotations

import json
import os
from typing import Any

import monailabel.endpoints.infer as endpoint
from fastapi.responses import FileResponse

from server.errors import http_answers
from server.requests.infer_request import DICOM_SEG, OUTPUT

from .endpoint_input import check_upload, object_in
from .replacing import Function, arguments, replace


def install() -> None:
    """Wrap the function; once, however often the app is loaded."""
    replace(endpoint, "run_inference", _checked)


def _checked(own: Function) -> Function:
    def run_inference(*args: Any, **kwargs: Any) -> Any:
        call = arguments(own, args, kwargs)
        given = call.arguments
        with http_answers():
            options = object_in(given["params"]) if given["params"] else {}
            check_upload(given["file"])
            check_upload(given["label"])
        if getattr(given["output"], "value", given["output"]) != DICOM_SEG:
            return own(*call.args, **call.kwargs)
        given["params"] = json.dumps({**options, OUTPUT: DICOM_SEG})
        given["output"] = endpoint.ResultType.image
        answer = own(*call.args, **call.kwargs)
        return FileResponse(answer.path, media_type="application/dicom", filename=os.path.basename(answer.path))

    return run_inference
