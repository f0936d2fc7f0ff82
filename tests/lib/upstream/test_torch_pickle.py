"""PyTorch reads more than plain tensors from a file, also with ``weights_only``."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from lib.upstream.torch_pickle import check_pickle


def pickle_of(content: object, folder: Path) -> bytes:
    path = folder / "file.pt"
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(".pkl")))


def test_tensors_and_plain_facts_pass(tmp_path: Path) -> None:
    weights = torch.nn.Conv3d(1, 2, 3).state_dict()
    half = {name: value.half() for name, value in weights.items()}
    check_pickle(pickle_of({"state": weights, "half": half, "count": torch.tensor(3), "names": ["a"]}, tmp_path))


@pytest.mark.parametrize("kind", ["sparse", "parameter"])
def test_other_tensors_are_read_without_us(kind: str, tmp_path: Path) -> None:
    made = torch.eye(2).to_sparse() if kind == "sparse" else torch.nn.Parameter(torch.zeros(2))
    content = pickle_of({"one": made}, tmp_path)
    assert "one" in torch.load(tmp_path / "file.pt", weights_only=True)
    with pytest.raises(ValueError, match="has no place in it"):
        check_pickle(content)
