"""The index of patches names each file, and each file says what is wrong and has a test."""

from __future__ import annotations

from pathlib import Path

import pytest

import server.upstream

FOLDER = Path(server.upstream.__file__).parent
TOOLS = {"__init__", "installing", "replacing"}
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in TOOLS)


@pytest.mark.parametrize("name", FILES)
def test_each_patch_is_listed_described_and_tested(name: str) -> None:
    assert f"``{name}``" in str(server.upstream.__doc__)
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    for part in ("- Package:", "- Wrong:", "- Done:", "- Source: https://"):
        assert part in text
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


WORDS = (
    *("._datastore_path", "._datastore_config_path", "_update_datastore_file", "_reconcile_datastore"),
    *("async_tasks", "background_processes", "_load_sessions", "LocalDatastore.", "DICOMwebClientX"),
    *("middleware_stack", "user_middleware", "router.routes", "sys.modules[", "tempfile.tempdir =", "setFormatter"),
    *("walk_tb", "tb_frame", "__traceback__"),
)
"""What only this folder may hold."""


def test_nothing_else_reaches_into_these_packages() -> None:
    app = FOLDER.parents[1]
    files = [
        file for file in sorted(app.rglob("*.py")) if file.parent != FOLDER and file.relative_to(app).parts[0] != "lib"
    ]
    found = [(str(f.relative_to(app)), word) for f in files for word in WORDS if word in f.read_text(encoding="utf-8")]
    assert found == []
