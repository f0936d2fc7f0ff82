"""The network in service: an upload is looked at before it takes its place, and what was there is kept."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from fastapi import UploadFile

from lib.core.errors import UserError
from lib.core.labels import LabelSchema
from lib.specialists import SpecialistSpec, build_network, load_specialist, save_specialist
from server.store.study import Study
from server.upstream import model_files

SCHEMA = LabelSchema(("ball", "rod"))


def network(path: Path, names: tuple[str, ...] = SCHEMA.names, seed: int = 0) -> bytes:
    """A tiny untrained specialist."""
    torch.manual_seed(seed)
    spec = SpecialistSpec(names, (4, 8, 8), (3.0, 3.0, 3.0), (16, 16, 16))
    save_specialist(path, spec, [build_network(spec)], {"round": seed})
    return path.read_bytes()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study with a network in service."""
    published = tmp_path / "models" / "specialist.pt"
    published.parent.mkdir()
    network(published)
    return cast(Study, SimpleNamespace(published=published, schema=SCHEMA))


def put(study: Study, content: bytes, model: str = "segment") -> dict[str, Any]:
    return model_files.put(study, model, UploadFile(io.BytesIO(content), filename="../../../evil.pt"))


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(2000) + content[middle + 2000 :]


RUBBISH: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "words": lambda _: b"no model",
    "cut": cut,
    "zeroed": zeroed,
    "a pickle that runs code": lambda _: b"cos\nsystem\n(S'touch /tmp/semisam-was-here'\ntR.",
    "other content": lambda _: torch_bytes({"weights": torch.zeros(3)}),
    "a list": lambda _: torch_bytes([1, 2, 3]),
}


def torch_bytes(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_is_refused_and_the_one_in_service_stays(study: Study, kind: str) -> None:
    before = study.published.read_bytes()
    with pytest.raises(UserError) as refused:
        put(study, RUBBISH[kind](before))
    assert refused.value.status == 422
    assert "The network in service stays" in str(refused.value)
    assert ".upload-" not in str(refused.value)
    assert study.published.read_bytes() == before
    assert sorted(path.name for path in study.published.parent.iterdir()) == ["specialist.pt"]
    assert not Path("/tmp/semisam-was-here").exists()


def test_network_of_other_structures_is_refused(study: Study, tmp_path: Path) -> None:
    before = study.published.read_bytes()
    with pytest.raises(UserError, match="other structures than those of this study") as refused:
        put(study, network(tmp_path / "other.pt", ("rod", "ball")))
    assert refused.value.status == 409
    assert study.published.read_bytes() == before


def test_upload_goes_into_service_and_the_one_before_is_kept(study: Study, tmp_path: Path) -> None:
    first = study.published.read_bytes()
    second = network(tmp_path / "second.pt", seed=2)
    answer = put(study, second, "uncertainty")
    assert study.published.read_bytes() == second
    assert answer["checksum"]
    kept = study.published.parent / model_files.KEPT / answer["kept"]
    assert kept.read_bytes() == first
    assert load_specialist(kept).notes["round"] == 0
    assert put(study, kept.read_bytes())["kept"] != answer["kept"]  # and back again
    assert study.published.read_bytes() == first


def test_only_some_are_kept(study: Study, tmp_path: Path) -> None:
    for seed in range(model_files.MOST_KEPT + 3):
        put(study, network(tmp_path / "next.pt", seed=seed))
    assert len(list((study.published.parent / model_files.KEPT).iterdir())) == model_files.MOST_KEPT


def test_deleted_network_is_kept(study: Study) -> None:
    before = study.published.read_bytes()
    answer = model_files.take_out(study, "segment")
    assert not study.published.exists()
    assert (study.published.parent / model_files.KEPT / answer["kept"]).read_bytes() == before
    with pytest.raises(UserError, match="no trained network in service") as refused:
        model_files.take_out(study, "segment")
    assert refused.value.status == 404


@pytest.mark.parametrize("model", ["propagate", "prompt", "review", "", "../segment", "semisam"])
def test_models_without_a_file(study: Study, model: str) -> None:
    before = study.published.read_bytes()
    for call in (lambda: put(study, before, model), lambda: model_files.take_out(study, model)):
        with pytest.raises(UserError, match="has no file") as refused:
            call()
        assert refused.value.status == 404
    assert study.published.read_bytes() == before
