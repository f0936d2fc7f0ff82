"""The index of reaches names each file, and each file says what is wrong and has a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import lib.upstream

FOLDER = Path(lib.upstream.__file__).parent
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
WORDS = (
    *("skip_layers", "_encode_new_memory", "freqs_cis", "rel_pos_h", "mask_tokens", "point_embeddings"),
    *("train_step", "loader._finish", "nnUNet_", "_kw_requires_import", "_internal", "GOMP_", ".__class__ ="),
    *("torch._utils", "torch._C", "torch._foreach", "torch.mkldnn"),
)
"""What only this folder may hold."""
OWN = {"generalists/sam3d": ("rel_pos_h", "mask_tokens", "point_embeddings")}
"""Our SAM-Med3D has parts of the same names."""


@pytest.mark.parametrize("name", FILES)
def test_each_reach_is_listed_described_and_tested(name: str) -> None:
    assert f"``{name}``" in str(lib.upstream.__doc__)
    text = str(ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))))
    for part in ("- Package:", "- Done:", "- Source: https://"):
        assert part in text
    assert ("- Wrong:" in text) != ("- Lacks:" in text)
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


def test_the_index_names_nothing_that_is_gone() -> None:
    assert re.findall(r"^\| ``(\w+)``", str(lib.upstream.__doc__), re.MULTILINE) == FILES


def test_nothing_else_of_lib_reaches_into_these_packages() -> None:
    found = []
    for file in sorted(FOLDER.parent.rglob("*.py")):
        folder = str(file.parent.relative_to(FOLDER.parent))
        if file.parent != FOLDER:
            text = file.read_text(encoding="utf-8")
            found += [f"{file.name}: {word}" for word in WORDS if word in text and word not in OWN.get(folder, ())]
    assert found == []
