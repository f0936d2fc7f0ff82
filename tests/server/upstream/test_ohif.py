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


SCRIPTS = sorted((Path(ohif.__file__).parent / "ohif_scripts").glob("*.js"))


def test_our_scripts_come_after_ohifs_own() -> None:
    theirs = (BUILT / "app-config.js").read_text(encoding="utf-8")
    assert ask(web(endpoint.router), "GET", "/ohif/app-config.js").text == theirs
    app = web(endpoint.router)
    ohif.install(app)
    text = ask(app, "GET", "/ohif/app-config.js").text
    assert text.startswith(theirs)
    assert text.endswith("\n".join(script.read_text(encoding="utf-8") for script in SCRIPTS))


def test_the_page_asks_nothing_of_the_internet() -> None:
    outside = r"(?:href|src)=\"https?://|init-service-worker"
    theirs = (BUILT / "index.html").read_text(encoding="utf-8")
    assert len(re.findall(outside, theirs)) > 1
    app = web(endpoint.router)
    ohif.install(app)
    for path in ("", "monai-label"):
        answer = ask(app, "GET", f"/ohif/{path}?StudyInstanceUIDs=1.2")
        assert answer.headers["content-type"].startswith("text/html")
        assert not re.search(outside, answer.text)
        assert "app.bundle" in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "@import url(http" in (BUILT / "app.bundle.css").read_text(encoding="utf-8")
    style = ask(app, "GET", "/ohif/app.bundle.css")
    assert "@import url(http" not in style.text
    assert style.headers["content-type"].startswith("text/css")
    script = next(file.name for file in BUILT.glob("app.bundle.*.js"))
    assert ask(app, "GET", f"/ohif/{script}").content == (BUILT / script).read_bytes()


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


@pytest.mark.parametrize(
    "name",
    [
        *("commandsManager", "onModeEnter", "preRegistration", "segmentationService"),
        *("monaiLabelPanel", "nextSampleForm", "isDataReady", "tab-switch", "w3-container", "optionsTable"),
        *("return-to-work-list", "SEGMENTATION_DATA_MODIFIED", "SEGMENTATION_LOADING_COMPLETE", "cornerstoneTools"),
    ],
)
def test_names_that_our_scripts_use_are_still_there(name: str) -> None:
    assert any(name in script.read_text(encoding="utf-8") for script in SCRIPTS)
    assert built(re.escape(name))
