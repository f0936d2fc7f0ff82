"""What tests of a DICOMweb study share."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import HTTPException

from lib.core.labels import LabelSchema

SCHEMA = LabelSchema(("liver", "spleen"))


NAMES = {"params": {"label_names": SCHEMA.as_dict()}, "model": "propagate"}


def text(call: Any, status: int) -> str:
    with pytest.raises(HTTPException) as found:
        call()
    assert found.value.status_code == status
    return str(found.value.detail)
