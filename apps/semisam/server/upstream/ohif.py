"""What semisam adds to the OHIF viewer of MONAI Label: a way to save labels, and the reasons of refusals.

- Package: OHIF 3.10 as MONAI Label 0.8.5 brings it, ``monailabel/endpoints/static/ohif``, built files.
- Wrong:

  - the panel asks port 8000, wherever the page comes from;
  - the mode *MONAI Label* shows no list of segments, so nothing could be saved;
  - *Export DICOM SEG* fails in every mode, because two commands have one name;
  - the SEG is upside down when the series is numbered along the slice normal;
  - a refused request is shown without its reason;
  - how far a training is is told when the panel is connected, white on white, and not again.

- Done: OHIF's configuration is a script of its own, which may add modes and extensions. MONAI Label's file is sent with
  ``ohif.js`` after it, and nothing on disk is changed.
- Source: https://github.com/Project-MONAI/MONAILabel/issues/1805, https://github.com/OHIF/Viewers/issues/5038
"""

from __future__ import annotations

from pathlib import Path

import monailabel.endpoints
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User

from .routes import first_time, put_first

PATH = "/ohif/app-config.js"
_OURS = Path(__file__).with_name("ohif.js")
_THEIRS = Path(monailabel.endpoints.__file__).parent / "static" / "ohif" / "app-config.js"


def install(app: FastAPI) -> None:
    """Answer for OHIF's configuration, before MONAI Label does; once, however often the app is loaded."""
    if not _THEIRS.is_file() or not first_time(app, "ohif"):
        return
    router = APIRouter()

    @router.get(PATH, include_in_schema=False)
    def config(user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))) -> Response:  # noqa: B008
        text = "\n".join(file.read_text(encoding="utf-8") for file in (_THEIRS, _OURS))
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    put_first(app, router)
