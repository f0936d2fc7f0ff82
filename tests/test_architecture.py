"""The code hangs together as `docs/explanation/architecture.md` says."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tiny_study import ROOT

sys.path.append(str(ROOT / "benchmarks"))

from bench_code import APP, circles, graph, modules

CODE = ROOT / APP
TESTS = ROOT / "tests"

FLOORS = (
    {"core", "upstream"},
    {"formats", "dicom_series", "parallel", "people", "report"},
    {"dicom_seg", "generalists", "nnunet"},
    {"propagation", "prompting", "exchange"},
    {"specialists"},
    {"training"},
    {"recipes"},
    {"selection"},
    {"setup"},
)
"""Packages of ``lib``: each imports from floors below its own, and from its own floor what stands in ``NEIGHBOURS``."""

NEIGHBOURS = {("formats", "dicom_series"), ("dicom_series", "formats")}
"""A folder of DICOM files is one of the formats, and is made of images with a place like all others."""

TASKS = ("infers", "trainers", "strategies", "scoring", "main")
OUTSIDE = ("monailabel", "fastapi", "starlette", "uvicorn", "server", *TASKS)
"""What ``lib`` knows nothing of."""

KNOWN_CIRCLES: tuple[list[str], ...] = (
    ["lib.generalists.sam2d.adapter", "lib.generalists.sam2d.session", "lib.generalists.sam2d.single"],
    ["lib.generalists.sam2video.adapter", "lib.generalists.sam2video.session"],
    ["lib.generalists.sam3d.adapter", "lib.generalists.sam3d.session"],
    ["scoring.base", "scoring.one_pass"],
)
"""To be emptied; nothing is added here."""

OWN_FOLDERS = {
    "support": "what tests share",
    "clients": "played viewers and real DICOM servers",
    "benchmarks": "the tests of benchmarks/",
    "server/running": "a real MONAI Label server, asked over HTTP",
}
"""Folders of tests that mirror no folder of the app."""


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    """Which module imports which, also for types only."""
    return graph(CODE)


def test_no_modules_import_each_other_in_a_circle(edges: dict[str, set[str]]) -> None:
    assert [circle for circle in circles(edges) if circle not in KNOWN_CIRCLES] == []


def test_lib_knows_nothing_of_monai_label() -> None:
    found = []
    for file in (CODE / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            found += [f"{file.relative_to(CODE)}: {name}" for name in names if name.split(".")[0] in OUTSIDE]
    assert found == []


def test_imports_between_the_packages_of_lib_go_down(edges: dict[str, set[str]]) -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    packages = {path.name for path in (CODE / "lib").iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert packages == set(floor), "a new package of lib has its floor here and in architecture.md"
    up = []
    for module, targets in edges.items():
        for target in targets:
            if not (module.startswith("lib.") and target.startswith("lib.")):
                continue
            one, other = module.split(".")[1], target.split(".")[1]
            if one != other and floor[one] <= floor[other] and (one, other) not in NEIGHBOURS:
                up.append(f"{module} imports {target}")
    assert up == []


def test_recipes_share_parts_by_the_engine_only(edges: dict[str, set[str]]) -> None:
    """Each package of a paper can be read, and removed, on its own."""
    papers = {path.name for path in (CODE / "lib" / "recipes").iterdir() if (path / "recipe.py").is_file()} - {"engine"}
    assert len(papers) >= 5
    found = []
    for module, targets in edges.items():
        for target in targets:
            one, other = (name.split(".")[2] if name.startswith("lib.recipes.") else "" for name in (module, target))
            if {one, other} <= papers and one != other:
                found.append(f"{module} imports {target}")
    assert found == []


def test_the_server_knows_nothing_of_the_tasks(edges: dict[str, set[str]]) -> None:
    found = []
    for module, targets in edges.items():
        if module.split(".")[0] == "server":
            found += [f"{module} imports {target}" for target in targets if target.split(".")[0] in TASKS]
    assert found == []


def test_tests_mirror_the_app() -> None:
    folders = {file.parent.relative_to(TESTS) for file in TESTS.rglob("test_*.py")} - {Path(".")}
    own = {Path(name) for name in OWN_FOLDERS}
    assert [str(folder) for folder in sorted(folders - own) if not (CODE / folder).is_dir()] == []
    assert {str(folder) for folder in own if not (TESTS / folder).is_dir()} == set()


def test_all_modules_are_found() -> None:
    """What the tests above go by."""
    known = modules(CODE)
    assert {"main", "lib.core.frames", "lib.recipes.fm_abs.recipe", "server.web.gate"} <= set(known)
