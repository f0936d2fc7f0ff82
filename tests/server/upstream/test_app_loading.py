"""MONAI Label forgets only the folder ``lib`` of an earlier load, and does not hand over its web application."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from monailabel.utils.others.class_utils import unload_module

from server.upstream import app_loading
from tiny_study import ROOT


def test_monai_label_forgets_lib_alone_and_the_app_forgets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["lib.of_before", "server.of_before", "infers.of_before", "library"]
    fake = {name: ModuleType(name) for name in names}
    monkeypatch.setattr(sys, "modules", dict(fake))
    unload_module("lib")
    assert [name for name in names if name in sys.modules] == names[1:]
    app_loading.forget_earlier_load()
    assert [name for name in names if name in sys.modules] == ["library"]


def test_all_folders_with_code_are_forgotten() -> None:
    app = ROOT / "apps" / "semisam"
    folders = {path.parent.name for path in app.glob("*/__init__.py")}
    assert folders == set(app_loading.PACKAGES)


def test_nothing_of_the_app_is_imported_by_what_may_be_of_an_earlier_load() -> None:
    text = Path(app_loading.__file__).read_text(encoding="utf-8")
    assert not any(
        line.startswith((f"from {p}", f"import {p}")) for p in app_loading.PACKAGES for line in text.split("\n")
    )


def test_web_application_is_found_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "monailabel.app", raising=False)
    assert app_loading.web_application() is None
    monkeypatch.setitem(sys.modules, "monailabel.app", SimpleNamespace(app="web"))
    assert app_loading.web_application() == "web"


def test_monai_labels_module_still_has_it() -> None:
    import inspect

    import monailabel

    text = (Path(inspect.getfile(monailabel)).parent / "app.py").read_text(encoding="utf-8")
    assert "\napp = FastAPI(" in text
