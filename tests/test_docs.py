"""What the pages in docs/ say about files, commands, settings and options is there."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lib.generalists import available_generalists
from lib.propagation import available_propagators
from lib.recipes import CHOICES, PRESETS, RECIPES
from lib.setup.settings import KEYS, STRATEGIES
from server.options import INFER

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
APP = ROOT / "apps" / "semisam"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
SKIPPED = {".venv", ".git", ".demo", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "model", "logs"}

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"[\w./-]*\w\.(?:py|js|md|toml|sh)\b")


def _page(path: Path) -> Any:
    return pytest.param(path, id=str(path.relative_to(ROOT)))


each_page = pytest.mark.parametrize("page", [_page(path) for path in PAGES])


@pytest.fixture(scope="module")
def files() -> set[str]:
    """All files of the repository, from its root."""
    found = set()
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found |= {str((Path(folder) / name).relative_to(ROOT)) for name in names}
    return found


@pytest.fixture(scope="module")
def sources(files: set[str]) -> str:
    """The text of the app, the benchmarks and the tests."""
    chosen = [name for name in files if name.endswith((".py", ".js")) and name != "tests/test_docs.py"]
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in chosen)


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _code(text: str) -> list[str]:
    """Code blocks and code spans of a page."""
    return [*_FENCED.findall(text), *_CODE_SPAN.findall(_FENCED.sub("", text))]


def _anchors(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them of headings, and those set by hand."""
    text = _FENCED.sub("", _text(page))
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def _table(page: Path, header: str) -> list[list[str]]:
    """The cells of the table below the row that begins with ``header``."""
    rows: list[list[str]] = []
    lines = iter(_text(page).splitlines())
    for line in lines:
        if line.startswith(header):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return rows
                rows.append([cell.strip() for cell in row.strip("|").split("|")])
    return rows


def _names(cell: str) -> tuple[str, ...]:
    return tuple(_CODE_SPAN.findall(cell))


@each_page
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_FENCED.sub("", _text(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.exists() or (anchor and anchor not in _anchors(to)):
            broken.append(target)
    assert broken == []


@each_page
def test_files_that_a_page_names_exist(page: Path, files: set[str]) -> None:
    """A path is given from the root, the app or ``lib``; a name alone is that of any file."""
    names = {name.rsplit("/", 1)[-1] for name in files}
    missing = set()
    for code in _code(_text(page)):
        for found in _FILE.findall(code):
            if (found != found.lower() and found not in files) or found.startswith(("/", ".")):
                continue  # a placeholder such as NAME.py, or a file on somebody's machine
            paths = (found, f"apps/semisam/{found}", f"apps/semisam/lib/{found}", f"docs/{found}")
            known = any(path in files for path in paths) if "/" in found else found in names
            if not known:
                missing.add(found)
    assert missing == set()


@each_page
def test_verbs_of_make_that_a_page_names_exist(page: Path, files: set[str]) -> None:
    verbs = set(re.findall(r"^([a-z][a-z-]*):", _text(ROOT / "Makefile"), re.MULTILINE))
    verbs |= {
        name[len("benchmarks/") : -len(".py")].replace("_", "-")
        for name in files
        if name.startswith("benchmarks/bench_")
    }
    named = {
        verb
        for code in _code(_text(page))
        for words in re.findall(r"\bmake((?: [a-z][a-z-]*\b(?![=./]))+)", re.sub(" # .*", "", code))
        for verb in words.split()
    }
    assert named - verbs == set()


@each_page
def test_environment_variables_that_a_page_names_are_read(page: Path, sources: str) -> None:
    from monailabel import config

    read = sources + Path(config.__file__).read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:MONAI_LABEL|SEMISAM)_[A-Z_]*[A-Z]\b", _text(page)))
    assert {name for name in named if name not in read} == set()


@each_page
def test_options_of_our_commands_that_a_page_names_exist(page: Path, sources: str) -> None:
    """Options after ``main.py`` and in ``BENCH_ARGS``; those of a training are made of the trainer's own."""
    from trainers import SemiSamTrainer

    own = set(SemiSamTrainer(None).config())  # type: ignore[arg-type]
    own |= {f"{name}-scans" for name in ("la", "hippocampus")}
    named = set()
    for code in _code(_text(page)):
        joined = code.replace("\\\n", " ")
        words = re.findall(r"main\.py ([^\n|;]*)", joined) + re.findall(r'BENCH_ARGS="([^"]*)"', joined)
        named |= {option for text in words for option in re.findall(r"--([a-z][a-z_-]+)", text)}
    assert {name for name in named - own if f'"--{name}"' not in sources} - {"help"} == set()


def test_the_messages_on_the_page_of_errors_are_those_of_the_code(files: set[str]) -> None:
    said = []
    for name in files:
        if name.startswith("apps/") and name.endswith(".py"):
            nodes = ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8")))
            said += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    text = "\0".join(said)
    rows = _table(DOCS / "reference" / "errors.md", "| text | what to do |")
    parts = [
        part.strip(" *()")
        for row in rows
        for part in re.split(r"\.\.\.|:", row[0].partition("* (")[0])
        if len(part.strip(" *()")) > 10
    ]
    assert len(parts) >= len(rows)
    assert [part for part in parts if part not in text] == []


def test_every_benchmark_is_on_the_page_of_benchmarks() -> None:
    text = _text(DOCS / "how-to" / "benchmarks.md")
    verbs = [f"make {path.stem.replace('_', '-')}" for path in sorted((ROOT / "benchmarks").glob("bench_*.py"))]
    assert [verb for verb in verbs if verb not in text] == []


def test_every_page_is_listed_in_the_table_of_contents() -> None:
    listed = {(DOCS / target.partition("#")[0]).resolve() for target in _LINK.findall(_text(DOCS / "README.md"))}
    assert [page for page in PAGES if DOCS in page.parents and page != DOCS / "README.md" and page not in listed] == []


def test_every_folder_of_the_app_is_on_the_map() -> None:
    text = _text(DOCS / "explanation" / "architecture.md")
    folders = {path.parent.relative_to(APP) for path in APP.rglob("*.py") if len(path.relative_to(APP).parts) in (2, 3)}
    assert sorted(str(folder) for folder in folders if not re.search(rf"\b{folder.name}\b", text)) == []


def test_the_table_of_settings_has_those_that_the_server_reads() -> None:
    listed = {name for row in _table(DOCS / "reference" / "settings.md", "| key |") for name in _names(row[0])}
    assert listed == set(KEYS)


@each_page
def test_settings_that_a_page_names_exist(page: Path) -> None:
    named = {name for code in _code(_text(page)) for name in re.findall(r"--conf ([a-z_]+)", code)}
    assert named - set(KEYS) == set()


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("generalist", available_generalists()),
        ("propagator", available_propagators()),
        ("default_strategy", STRATEGIES),
    ],
)
def test_the_values_of_a_setting_are_listed(setting: str, allowed: tuple[str, ...]) -> None:
    rows = {row[0]: row for row in _table(DOCS / "reference" / "settings.md", "| key |")}
    assert set(allowed) <= set(_names(rows[f"`{setting}`"][1]))


def test_every_foundation_model_has_its_licence_and_source() -> None:
    rows = _table(DOCS / "how-to" / "weights.md", "| name | what |")
    assert {_names(row[0])[0] for row in rows} == set(available_generalists()) - {"mind"}


def test_the_options_of_infer_requests_are_known() -> None:
    rows = _table(DOCS / "reference" / "tasks.md", "| option | of | values |")
    named = {name for row in rows for name in _names(row[0])}
    assert named - INFER - {"max_templates"} == set()


def test_the_options_of_the_trainer_are_those_it_offers(tmp_path: Path) -> None:
    from trainers import SemiSamTrainer

    offered = SemiSamTrainer(None).config()  # type: ignore[arg-type]
    rows = {
        _names(row[0])[0]: _names(row[1])
        for row in _table(DOCS / "reference" / "tasks.md", "| option | values, the default first |")
    }
    assert set(rows) == set(offered)
    assert rows["recipe"] == tuple(RECIPES)
    assert set(rows["preset"]) >= set(PRESETS)
    for option, values in CHOICES.items():
        assert rows[option] == values


def test_the_table_of_presets_has_their_numbers() -> None:
    for row in _table(DOCS / "reference" / "tasks.md", "| preset | rounds |"):
        preset = PRESETS[_names(row[0])[0]]
        numbers = [int(cell.replace(" ", "")) for cell in row[1:]]
        assert numbers == [
            preset.rounds,
            preset.networks,
            preset.epochs,
            preset.iterations,
            preset.batch,
            preset.scan_voxels,
        ]


@pytest.mark.parametrize("recipe", tuple(RECIPES))
def test_the_table_of_recipes_has_their_networks_and_regularisers(recipe: str) -> None:
    rows = {_names(row[0])[0]: row for row in _table(DOCS / "reference" / "tasks.md", "| recipe | `network` |")}
    networks, regularisers = _names(rows[recipe][1]), _names(rows[recipe][2].partition(";")[0])
    assert networks == tuple(RECIPES[recipe].networks)
    assert regularisers == tuple(RECIPES[recipe].regularisers)


def test_every_strategy_is_explained() -> None:
    rows = _table(DOCS / "reference" / "tasks.md", "| name | next scan |")
    assert {name for row in rows for name in _names(row[0])} == {*STRATEGIES, "random"}
