"""A checkpoint from anywhere: what is wrong with it is said, and it costs no memory and runs no code."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import resource
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.core.errors import UserError
from lib.nnunet import NnunetScheme
from lib.specialists import SpecialistSpec, build_network, check_checkpoint, load_specialist, save_specialist
from lib.specialists.networks import NETWORKS
from lib.specialists.networks.sam.build import SAM_KINDS

NAMES = ("ball", "rod")
SPEC = SpecialistSpec(NAMES, (4, 8, 8), (3.0, 3.0, 3.0), (16, 16, 16))


def good(path: Path, spec: SpecialistSpec = SPEC, members: int = 2) -> Path:
    torch.manual_seed(0)
    save_specialist(path, spec, [build_network(spec) for _ in range(members)], {"round": 1})
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(good(path), weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def repacked(path: Path, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """The same archive with other content of some of its files, packed in another way."""
    with zipfile.ZipFile(good(path)) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, parts.get(name.rpartition("/")[2].replace(".", "_"), data))
    return path


@pytest.mark.parametrize("network", [name for name in NETWORKS if name == "sam" or name not in SAM_KINDS])
def test_a_good_checkpoint_of_every_network_passes(tmp_path: Path, network: str) -> None:
    check_checkpoint(good(tmp_path / "specialist.pt", replace(SPEC, network=network)), NAMES)


def test_one_of_2d_pictures_in_colour_passes(tmp_path: Path) -> None:
    flat = replace(SPEC, network="unet2d", roi_size=(32, 32, 1), flat=True, inputs=3)
    check_checkpoint(good(tmp_path / "specialist.pt", flat), NAMES)


def test_one_with_a_window_larger_than_it_is_asked_with_passes(tmp_path: Path) -> None:
    check_checkpoint(good(tmp_path / "specialist.pt", replace(SPEC, roi_size=(160, 16, 16))), NAMES)


def test_one_of_other_structures_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="knows ball, rod, but the labels of this study are rod, ball") as error:
        check_checkpoint(good(tmp_path / "specialist.pt"), ("rod", "ball"))
    assert error.value.status == 409


def test_none_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        check_checkpoint(tmp_path / "specialist.pt", NAMES)
    assert error.value.status == 404


def _weights(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["members"][1]
    return found


def _first(content: dict[str, Any]) -> str:
    return next(name for name, value in _weights(content).items() if value.ndim == 5)


def _set(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["spec"].update({name: value})


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "not a number in the second network": lambda c: _weights(c)[_first(c)].view(-1)[3:4].fill_(float("nan")),
    "without end": lambda c: _weights(c)[_first(c)].view(-1)[:1].fill_(float("inf")),
    "a weight is missing": lambda c: _weights(c).pop(_first(c)),
    "a weight too many": lambda c: _weights(c).update(more=torch.zeros(1)),
    "a weight of another size": lambda c: _weights(c).update({_first(c): torch.zeros(1, 1, 1, 1, 1)}),
    "a weight that is a text": lambda c: _weights(c).update({_first(c): "text"}),
    "a sparse weight": lambda c: _weights(c).update({_first(c): torch.zeros(2, 2).to_sparse()}),
    "complex": lambda c: _weights(c).update({_first(c): _weights(c)[_first(c)].to(torch.complex64)}),
    "no networks": lambda c: c.update(members=[]),
    "networks that are none": lambda c: c.update(members=[1, 2]),
    "a thousand networks": lambda c: c.update(members=c["members"] * 500),
    "no spec": lambda c: c.pop("spec"),
    "a spec that is a list": lambda c: c.update(spec=[1]),
    "another format": lambda c: c.update(format=7),
    "another network": _set("network", "unknown"),
    "other channels": _set("widths", [8, 8, 8]),
    "channels without end": _set("widths", [10**9, 10**9]),
    "as many channels as memory": _set("widths", [4096] * 8),
    "a thousand levels": _set("widths", [4] * 1000),
    "a window without end": _set("roi_size", [10**6, 10**6, 10**6]),
    "no window": _set("roi_size", [0, 16, 16]),
    "a window of texts": _set("roi_size", ["16", "16", "16"]),
    "no spacing": _set("spacing", [0.0, 1.0, 1.0]),
    "a spacing that is no number": _set("spacing", [float("nan"), 1.0, 1.0]),
    "a part of two axes": _set("part", [10.0, 10.0]),
    "seven inputs": _set("inputs", 7),
    "an axis that is none": _set("slice_axis", 5),
    "notes that are none": lambda c: c.update(notes="text"),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_inside_is_refused_in_plain_words(tmp_path: Path, change: Callable[[Any], object]) -> None:
    with pytest.raises(UserError, match=r"specialist\.pt is damaged or no specialist of this app") as error:
        check_checkpoint(changed(tmp_path / "specialist.pt", change), NAMES)
    assert error.value.status == 422
    assert str(tmp_path) not in str(error.value)


def test_one_that_loads_but_answers_with_no_numbers_is_refused(tmp_path: Path) -> None:
    # Finite weights whose sums are not.
    path = changed(tmp_path / "specialist.pt", lambda c: [v.fill_(3e38) for v in _weights(c).values() if v.ndim == 5])
    with pytest.raises(UserError, match="gives no sensible answer") as error:
        check_checkpoint(path, NAMES)
    assert error.value.status == 422


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.999])
def test_half_a_file_is_refused(tmp_path: Path, share: float) -> None:
    path = good(tmp_path / "specialist.pt")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match="damaged") as error:
        check_checkpoint(path, NAMES)
    assert error.value.status == 422


def test_a_flipped_byte_in_the_weights_is_refused(tmp_path: Path) -> None:
    path = good(tmp_path / "specialist.pt")
    content = path.read_bytes()
    weight = load_specialist(path).members[0].state_dict()["head.weight"].flatten().numpy().tobytes()
    assert content.count(weight) == 1
    path.write_bytes(content.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]))  # still a number
    with pytest.raises(UserError, match="damaged"):
        check_checkpoint(path, NAMES)


@pytest.mark.parametrize("content", [b"rubbish" * 1000, b"\x89HDF\r\n", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "specialist.pt").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        check_checkpoint(tmp_path / "specialist.pt", NAMES)


def test_a_network_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "specialist.pt")
    with pytest.raises(UserError, match="no specialist of this app"):
        check_checkpoint(tmp_path / "specialist.pt", NAMES)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self._mark), "w")


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    for path, content in (
        (tmp_path / "a.pt", pickle.dumps(Malicious(mark), protocol=2)),
        (tmp_path / "b.pt", pickle.dumps(Malicious(mark), protocol=4)),
    ):
        with pytest.raises(UserError, match="damaged"):
            check_checkpoint(repacked(path, data_pkl=content), NAMES)
        path.write_bytes(content)  # as torch wrote files before 1.6
        with pytest.raises(UserError, match="damaged"):
            check_checkpoint(path, NAMES)
    assert not mark.exists()


def _without_much_memory(path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="damaged"):
        check_checkpoint(path, NAMES)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.slow
def test_a_small_file_that_unpacks_to_much_is_not_unpacked(tmp_path: Path) -> None:
    zeros = io.BytesIO()
    with zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("specialist/data.pkl", pickle.dumps({"format": 1}, protocol=2))
        with archive.open("specialist/data/0", "w", force_zip64=True) as file:
            for _ in range(25):
                file.write(bytes(16 * 2**20))
    path = tmp_path / "specialist.pt"
    path.write_bytes(zeros.getvalue())
    assert path.stat().st_size < 2 * 2**20
    _without_much_memory(path)


def test_packed_files_are_refused_though_they_are_small(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged"):
        check_checkpoint(repacked(tmp_path / "specialist.pt", zipfile.ZIP_DEFLATED), NAMES)


def test_one_number_shown_as_millions_takes_no_memory(tmp_path: Path) -> None:
    wide = replace(SPEC, widths=(2048, 2048))
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build_network(wide).state_dict().items()}
    weights = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    path = tmp_path / "specialist.pt"
    torch.save({"format": 1, "spec": wide.as_plain(), "members": [weights], "notes": {}, "nnunet": None}, path)
    assert path.stat().st_size < 2**20
    _without_much_memory(path)


def test_a_pickle_that_asks_for_memory_gets_none(tmp_path: Path) -> None:
    asks = b"\x80\x02c__builtin__\nbytearray\n" + pickle.LONG4 + b"\x05\x00\x00\x00\x00\x00\x00\x00\x02\x85R."
    pickletools.dis(asks, out=io.StringIO())  # it is one
    _without_much_memory(repacked(tmp_path / "specialist.pt", data_pkl=asks))


def test_a_file_of_more_bytes_than_any_network_has_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "specialist.pt"
    with path.open("wb") as file:
        file.truncate(20 * 2**30)  # takes no space on the disk
    _without_much_memory(path)


def test_the_reader_of_the_server_is_as_careful(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged"):
        load_specialist(repacked(tmp_path / "specialist.pt", zipfile.ZIP_DEFLATED))


def _nnunet(**changes: object) -> dict[str, object]:
    kwargs: dict[str, object] = {"n_stages": 4, "conv_op": "torch.nn.modules.conv.Conv3d", "dropout_op": None}
    architecture: dict[str, object] = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs | {k: v for k, v in changes.items() if k in kwargs},
        "_kw_requires_import": ["conv_op", "dropout_op"],
    }
    architecture |= {k: v for k, v in changes.items() if k in architecture}
    one = {"architecture": architecture, "patch_size": changes.get("patch_size", [32, 32, 32])}
    plans = json.dumps({"configurations": {"3d_fullres": one}})
    return {"plans": plans, "dataset": "{}", "configuration": "3d_fullres", "mirror_axes": [0]}


def test_plans_of_nnunet_name_only_its_own_networks() -> None:
    NnunetScheme.from_plain(_nnunet())
    bad: list[dict[str, object]] = [
        {"network_class_name": "os.system"},
        {"network_class_name": "torch.nn.Module.__init__"},
        {"conv_op": "subprocess.Popen"},
        {"n_stages": 10**6},
        {"patch_size": [10**5] * 3},
    ]
    for changes in bad:
        with pytest.raises(ValueError, match="plans"):
            NnunetScheme.from_plain(_nnunet(**changes))
