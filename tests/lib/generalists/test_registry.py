"""The table of generalists, and models that take turns in memory."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lib.core.errors import UserError
from lib.generalists import (
    ENTRIES,
    ResidentGeneralist,
    Residents,
    available_generalists,
    check_generalist,
    create_generalist,
    default_folder,
    describe_generalists,
    takes_prompts,
    unwrap,
)
from lib.generalists.base import Generalist, Promptable
from lib.generalists.entries import adapter_of
from lib.setup.settings import Settings
from tiny_study import ROOT
from tinymodel import TinyGeneralist, official, register

APP = ROOT / "apps" / "semisam"
NAMES = (
    "mind sam_med3d sam_med3d_turbo segany_pet sam_vit_b medsam mobile_sam lite_medsam sam2_tiny sam2_small "
    "sam2_base_plus sam2_large medsam2"
)


def test_all_names_are_there() -> None:
    assert " ".join(available_generalists()) == NAMES
    with pytest.raises(UserError, match="Known: mind"):
        create_generalist("sam")


@pytest.mark.parametrize("name", [n for n in NAMES.split() if n != "mind"])
def test_every_entry_is_complete(name: str) -> None:
    entry = ENTRIES[name]
    weights = entry.weights
    assert weights is not None
    assert weights.page.startswith("https://")
    assert weights.url is None or weights.url.startswith("https://")
    assert weights.sha256 is None or re.fullmatch("[0-9a-f]{64}", weights.sha256)
    assert weights.md5 is None or re.fullmatch("[0-9a-f]{32}", weights.md5)
    assert weights.size or weights.about_mib
    assert "encode" in entry.capabilities
    assert entry.code_licence
    assert entry.weights_licence
    assert entry.input_size
    adapter = adapter_of(entry)
    assert callable(adapter.build)
    assert callable(adapter.random_state)
    assert adapter.PREPROCESSING


@pytest.mark.parametrize("name", ["mobile_sam", "medsam2"])
@pytest.mark.slow
def test_what_features_depend_on_is_known_without_the_weights(name: str, tmp_path: Path) -> None:
    adapter = adapter_of(ENTRIES[name])
    model = adapter.build(name, adapter.random_state(name, 0), "cpu")
    assert model.preprocessing == adapter.PREPROCESSING  # type: ignore[attr-defined]
    assert ResidentGeneralist(name, weights=tmp_path, residents=Residents()).preprocessing == adapter.PREPROCESSING


def test_files_have_names_of_their_own() -> None:
    files = [entry.weights.name for entry in ENTRIES.values() if entry.weights]
    assert len(set(files)) == len(files)


@pytest.mark.slow
def test_listing_models_imports_none_of_them() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import lib.generalists\n"
        "print([m for m in sys.modules if any(p in m for p in ('sam2', '.sam3d'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, APP], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"  # MONAI itself imports segment_anything


def test_a_missing_file_is_told_early(tmp_path: Path) -> None:
    check_generalist("mind", tmp_path)
    with pytest.raises(
        UserError, match=r"main.py weights fetch sam2_tiny --folder .*weights import sam2_tiny"
    ) as error:
        check_generalist("sam2_tiny", tmp_path)
    assert error.value.status == 409


def test_settings_take_every_name_without_its_file(tmp_path: Path) -> None:
    for name in available_generalists():
        assert Settings.from_conf({"generalist": name}).generalist == name
    assert Settings().weights_folder == default_folder() == APP / "model" / "weights"
    assert Settings.from_conf({"weights": str(tmp_path)}).weights_folder == tmp_path


# --- taking turns -----------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Remembers where it was brought to."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, place: str) -> Network:  # type: ignore[override]
        self.places.append(place)
        return self


def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("tiny", "other")):
        register(monkeypatch, name=f"{name}.pt")
        official(tmp_path / f"{name}.pt", seed)
        monkeypatch.setitem(ENTRIES, name, replace(ENTRIES["tiny"], name=name))
    register(monkeypatch)


@pytest.mark.slow
def test_main_memory_has_room_for_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two(tmp_path, monkeypatch)
    residents = Residents()
    first, second = (residents.get(name, weights=tmp_path) for name in ("tiny", "other"))
    assert residents.get("tiny", weights=tmp_path) is first
    assert residents.get("other", weights=tmp_path) is second
    gone = weakref.ref(first)
    del first
    residents.release("cpu")
    gc.collect()
    assert gone() is None
    assert isinstance(residents.get("tiny", weights=tmp_path), TinyGeneralist)


def test_on_a_gpu_one_works_and_the_others_wait_in_main_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two(tmp_path, monkeypatch)
    residents = Residents()
    models, networks = [], [Network(), Network()]
    for name, network in zip(("tiny", "other"), networks, strict=True):
        model = residents.get(name, weights=tmp_path, device="cuda")
        model.network = network  # type: ignore[attr-defined]
        models.append(model)
    assert [network.places for network in networks] == [["cpu"], []]
    assert residents.get("tiny", weights=tmp_path, device="cuda") is models[0]
    assert [network.places for network in networks] == [["cpu", "cuda"], ["cpu"]]
    assert residents.get("tiny", weights=tmp_path, device="cuda") is models[0]
    assert [network.places for network in networks] == [["cpu", "cuda"], ["cpu"]]
    residents.get("other", weights=tmp_path)  # on the CPU it is in nobody's way
    assert residents.get("tiny", weights=tmp_path, device="cuda") is models[0]
    assert networks[0].places == ["cpu", "cuda"]


def test_what_clients_are_told_of_the_generalists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two(tmp_path, monkeypatch)
    (tmp_path / "other.pt").unlink()
    told = describe_generalists(["mind", "tiny", "other", "lite_medsam"], tmp_path)
    assert [(one["name"], one["features"], one["weights"]) for one in told] == [
        ("mind", True, "not needed"),
        ("tiny", False, "present"),
        ("other", False, "missing"),
        ("lite_medsam", False, "missing"),
    ]
    assert [one["prompts"] for one in told] == [[], [], [], ["box"]]
    assert [takes_prompts(name) for name in ("mind", "lite_medsam", "sam_med3d", "not in the table")] == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.slow
def test_released_memory_is_free_and_the_model_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    official(tmp_path / "tiny.pt")
    generalist = ResidentGeneralist("tiny", weights=tmp_path, residents=Residents())
    image = torch.rand(1, 2, 3, 4)
    before = generalist.encode(image, (1, 1, 1))
    gone = weakref.ref(generalist.inner)
    generalist.release()
    assert gone() is None
    torch.testing.assert_close(generalist.encode(image, (1, 1, 1)), before, rtol=0, atol=0)


def test_what_a_model_can_do_is_seen_through_its_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    official(tmp_path / "tiny.pt")
    generalist = ResidentGeneralist("tiny", weights=tmp_path, residents=Residents())
    assert isinstance(generalist, Generalist)
    assert isinstance(unwrap(generalist), Promptable)
    assert not isinstance(unwrap(create_generalist("mind")), Promptable)


def test_a_wrapper_needs_the_file_only_when_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    generalist = ResidentGeneralist("tiny", weights=tmp_path, residents=Residents())
    with pytest.raises(UserError, match="weights import tiny"):
        generalist.encode(torch.rand(1, 2, 2, 2), (1, 1, 1))
    official(tmp_path / "tiny.pt")
    generalist.encode(torch.rand(1, 2, 2, 2), (1, 1, 1))


@pytest.mark.slow
def test_a_new_file_is_loaded_in_place_of_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = register(monkeypatch)
    official(tmp_path / "tiny.pt", 0)
    generalist = ResidentGeneralist("tiny", weights=tmp_path, residents=Residents())
    image = torch.ones(1, 2, 2, 2)
    before = generalist.encode(image, (1, 1, 1))
    from lib.generalists.weights.intake import import_weights

    import_weights(entry, official(tmp_path / "new.pt", 1), tmp_path, unofficial=True)
    assert not torch.equal(generalist.encode(image, (1, 1, 1)), before)
