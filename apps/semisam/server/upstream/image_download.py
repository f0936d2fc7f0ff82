"""``GET`` and ``HEAD /datastore/image``: one file that a viewer can open, also of a scan in several files.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/datastore.py``, ``download_image``.
- Wrong: it sends the one file that it takes for the scan: the header without its data, or 404 for a DICOM folder. A
  checksum of a kind that it does not know gives a bare 500.
- Done: the datastore makes one file (``server.store.viewer_files``), which is sent; other checksums are refused (400).
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/datastore.py
"""

from __future__ import annotations

import os
from typing import Any

import monailabel.endpoints.datastore as endpoint
from fastapi import HTTPException
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type

from .replacing import Function, arguments, replace

_CHECKSUMS = ("SHA256", "SHA512", "MD5")


def install() -> None:
    """Let MONAI Label send these files; once, however often the app is loaded."""
    replace(endpoint, "download_image", _with_one_file)


def _with_one_file(own: Function) -> Function:
    def download_image(*args: Any, **kwargs: Any) -> Any:
        given = arguments(own, args, kwargs).arguments
        kind, colon, _ = str(given["check_sum"] or "").partition(":")
        if colon and kind not in _CHECKSUMS:
            raise HTTPException(400, f"check_sum: give one of {', '.join(_CHECKSUMS)}, a colon, and the number.")
        store = app_instance().datastore()
        if not hasattr(store, "viewer_file"):
            return own(*args, **kwargs)
        file = store.viewer_file(given["image"])
        if file == store.get_image_uri(given["image"]):
            return own(*args, **kwargs)
        if not os.path.isfile(file):
            raise HTTPException(404, f"There is no image {given['image']!r} in this study.")
        if given["check_only"]:
            return {}
        return FileResponse(file, media_type=get_mime_type(file), filename=os.path.basename(file))

    return download_image
