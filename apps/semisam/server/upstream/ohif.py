"""What semisam adds to the OHIF viewer of MONAI Label: a way to save labels, and what happens in words.

- Package: OHIF 3.10 as MONAI Label 0.8.5 brings it, ``monailabel/endpoints/static/ohif``, built files.
- Wrong:

  - the panel asks port 8000, wherever the page comes from;
  - the mode *MONAI Label* shows no list of segments, so nothing could be saved;
  - *Export DICOM SEG* fails in every mode, because two commands have one name;
  - the SEG is upside down when the series is numbered along the slice normal;
  - a refused request is shown without its reason, and a server that is gone not at all;
  - how far a training is is told once, white on white; *Stop Training* stays after
    its end, and the list of strategies does nothing;
  - the next sample comes with UIDs, and without the reason for it;
  - what is drawn is lost without a question;
  - the page asks the internet for fonts, and for a script that keeps it in the browser.

- Done: OHIF's configuration is a script of its own, which may add modes and extensions. MONAI Label's file is sent with
  those of ``ohif_scripts`` after it. OHIF's page is sent without what it takes from the internet, and with a rule that
  lets it take nothing from there. Nothing on disk is changed.
- Source: https://github.com/Project-MONAI/MONAILabel/issues/1805, https://github.com/OHIF/Viewers/issues/5038
"""

from __future__ import annotations

import re
from pathlib import Path

import monailabel.endpoints
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from monailabel.config import settings
from monailabel.endpoints.ohif import get_ohif
from monailabel.endpoints.user.auth import RBAC, User

from .routes import first_time, put_first

PATH = "/ohif/app-config.js"
_OURS = sorted((Path(__file__).parent / "ohif_scripts").glob("*.js"))
_THEIRS = Path(monailabel.endpoints.__file__).parent / "static" / "ohif" / "app-config.js"
_FROM_ELSEWHERE = re.compile(r"<link[^>]*https?://[^>]*>|<script[^>]*init-service-worker\.js[^>]*></script>")
_IMPORTED = re.compile(r"@import url\(https?://[^)]*\);?")
_MACHINE = " ".join(f"{scheme}://{name}:*" for scheme in ("http", "https") for name in ("localhost", "127.0.0.1"))
_RULE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob: data:; "
    f"connect-src 'self' blob: data: {_MACHINE}; object-src 'none'; base-uri 'self'"
)
"""OHIF is built with code that is made while it runs. The panel may be told another server on this machine."""


def install(app: FastAPI) -> None:
    """Answer for OHIF's page and configuration, before MONAI Label does; once, however often the app is loaded."""
    if not _THEIRS.is_file() or not first_time(app, "ohif"):
        return
    router = APIRouter()

    @router.get(PATH, include_in_schema=False)
    def config(user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))) -> Response:  # noqa: B008
        text = "\n".join(file.read_text(encoding="utf-8") for file in (_THEIRS, *_OURS))
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    @router.get("/ohif/{path:path}", include_in_schema=False)
    def page(path: str, user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))) -> Response:  # noqa: B008
        found: FileResponse = get_ohif(path)
        if Path(found.path).name == "app.bundle.css":
            style = _IMPORTED.sub("", Path(found.path).read_text(encoding="utf-8"))
            return Response(style, media_type="text/css", headers={"Cache-Control": "no-cache"})
        if Path(found.path).name != "index.html":
            return found
        text = _FROM_ELSEWHERE.sub("", Path(found.path).read_text(encoding="utf-8"))
        return HTMLResponse(text, headers={"Content-Security-Policy": _RULE, "Cache-Control": "no-cache"})

    put_first(app, router)
