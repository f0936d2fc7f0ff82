"""OHIF as MONAI Label brings it; ``clients/test_ohif.py`` has what a browser does with it."""

from __future__ import annotations

import re
from pathlib import Path

import monailabel.endpoints
import pytest
from monailabel.endpoints import ohif as endpoint

from server.upstream import ohif
from upstream_parts import ask, web

BUILT = Path(monailabel.endpoints.__file__).parent / "static" / "ohif"


def built(pattern: str) -> bool:
    """Whether a built file of OHIF's has such a text."""
    return any(re.search(pattern, file.read_text(encoding="utf-8")) for file in BUILT.glob("*.js"))


def test_our_script_comes_after_ohifs_own() -> None:
    theirs = (BUILT / "app-config.js").read_text(encoding="utf-8")
    assert ask(web(endpoint.router), "GET", "/ohif/app-config.js").text == theirs
    app = web(endpoint.router)
    ohif.install(app)
    text = ask(app, "GET", "/ohif/app-config.js").text
    assert text.startswith(theirs)
    assert text.endswith(Path(ohif.__file__).with_name("ohif.js").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "pattern",
    [
        r":8000",  # the panel asks port 8000
        r"storeSegmentation",  # the command whose name two have
        r"@ohif/mode-monai-label|monai-label",
    ],
)
def test_what_is_mended_is_still_there(pattern: str) -> None:
    assert built(pattern)


def test_names_that_our_script_uses_are_still_there() -> None:
    script = Path(ohif.__file__).with_name("ohif.js").read_text(encoding="utf-8")
    names = ("window.config", "customizationService", "commandsManager")
    assert [name for name in names if name in script and not built(re.escape(name.removeprefix("window.")))] == []
