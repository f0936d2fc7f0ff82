"""A specialist as ONNX and as a MONAI bundle, run by other programs, without semisam: the label that it gives here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from lib.core.errors import UserError
from lib.core.frames import frame_of
from lib.core.geometry import Volume
from lib.formats.volumes import read_volume
from lib.specialists import Specialist, SpecialistSpec, build_network, precision, predict
from lib.specialists.portable import export_network, formats, onnx
from lib.specialists.portable.network import PortableNetwork, example
from lib.specialists.portable.program import segment
from lib.specialists.portable.transforms import Prepared, _part
from tiny_study import TINY_LABELS, save_nifti, tiny_scan

needs_onnx = pytest.mark.skipif(
    not all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are not installed: requirements-onnx.txt",
)
LEAST_DICE = 0.995
BY_FORM = [pytest.param("onnx", marks=needs_onnx), "bundle"]


@pytest.fixture(autouse=True)
def whole_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network is undecided everywhere: the rounding of half precision would decide."""
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: False)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan whose axes are swapped and flipped."""
    image, _, affine = tiny_scan(2)
    turned = affine @ np.array([[0, -1, 0, 31], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])[[1, 0, 2, 3]]
    return save_nifti(tmp_path / "scans" / "turned.nii.gz", image[:, ::-1].copy(), turned)


def _specialist(
    network: str = "unet3d", members: int = 1, part: tuple[float, float, float] | None = None
) -> Specialist:
    # A network for slices sees them whole, as one that was trained does.
    roi = (32, 32, 8) if network == "unet2d" else (16, 16, 16)
    spec = SpecialistSpec(TINY_LABELS, (8, 16, 32), (4.5, 4.5, 5.0), roi, network=network, part=part)
    networks = []
    for seed in range(members):
        torch.manual_seed(seed)
        networks.append(build_network(spec))
    return Specialist(spec, tuple(networks), {"recipe": "semisam_o1"}).to("cpu")


def _run(folder: Path, scan: Path, form: str, box: list[list[int]] | None = None) -> nibabel.Nifti1Image:
    """The label that the export gives, in a process that knows nothing of semisam."""
    if form == "onnx":
        out = scan.parent.parent / "label.nii.gz"
        command = [sys.executable, str(folder / "segment.py"), str(scan), str(out)]
        command += ["--box", *[str(n) for pair in box for n in pair]] if box else []
    else:
        out = scan.parent.parent / "labels" / "turned_seg.nii.gz"
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
        command += ["--dataset_dir", str(scan.parent), "--output_dir", str(out.parent)]
        command += ["--box", json.dumps(box)] if box else []
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return nibabel.load(out)


def _check(found: nibabel.Nifti1Image, wanted: np.ndarray, affine: np.ndarray) -> None:
    values = np.asarray(found.dataobj)
    assert (values.dtype, values.shape) == (np.uint8, wanted.shape)
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    for value in np.unique(wanted):
        one, other = values == value, wanted == value
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) >= LEAST_DICE


@pytest.mark.parametrize("form", BY_FORM)
def test_the_label_is_that_of_segment(tmp_path: Path, scan: Path, form: str) -> None:
    specialist = _specialist(members=2)
    # Small structures count more, as after a training on a coarse grid.
    specialist = replace(specialist, spec=replace(specialist.spec, volume_weights=(1.0, 1.0, 1.5)))
    export_network(specialist, form, tmp_path / "export")
    volume = read_volume(scan)
    wanted = predict(specialist, volume).labels()
    assert len(np.unique(wanted)) > 1
    _check(_run(tmp_path / "export", scan, form), wanted, volume.affine)


@pytest.mark.parametrize("form", BY_FORM)
def test_a_network_for_a_part_of_a_scan_asks_which(tmp_path: Path, scan: Path, form: str) -> None:
    specialist = _specialist(part=(60.0, 60.0, 60.0))
    export_network(specialist, form, tmp_path / "export")
    volume, box = read_volume(scan), [[4, 30], [6, 28], [3, 25]]
    part = _part(frame_of(volume), box)
    wanted = predict(specialist, volume, part=part).labels()
    outside = np.ones(volume.shape, dtype=bool)
    outside[4:30, 6:28, 3:25] = False
    assert not wanted[outside].any()
    _check(_run(tmp_path / "export", scan, form, box), wanted, volume.affine)
    with pytest.raises(ValueError, match="60 x 60 x 60 mm around the structures"):
        Prepared(specialist.spec.as_plain())
    with pytest.raises(ValueError, match="no voxel"):
        _part(frame_of(volume), [[4, 4], [6, 28], [3, 25]])


@needs_onnx
@pytest.mark.parametrize("network", ["vnet", "dynunet", "unet2d"])
def test_other_networks_answer_alike(tmp_path: Path, scan: Path, network: str) -> None:
    specialist = _specialist(network)
    for form in ("onnx", "bundle"):
        export_network(specialist, form, tmp_path / form)
    volume = read_volume(scan)
    label, affine = segment(tmp_path / "onnx", scan)
    _check(nibabel.Nifti1Image(label, affine), predict(specialist, volume).labels(), volume.affine)
    image = example(specialist.spec)
    loaded = torch.jit.load(str(tmp_path / "bundle" / "models" / "model.ts"))
    torch.testing.assert_close(loaded(image), PortableNetwork(specialist)(image), atol=1e-4, rtol=1e-4)


@needs_onnx
def test_a_network_with_two_channels_takes_files_with_four_axes(tmp_path: Path) -> None:
    image, _, affine = tiny_scan(2)
    channels = np.stack([image, 900 - image], axis=-1).astype(np.float32)
    file = save_nifti(tmp_path / "four.nii.gz", channels, affine)
    spec = SpecialistSpec(TINY_LABELS, (8, 16, 32), (4.5, 4.5, 5.0), (16, 16, 16), inputs=2)
    specialist = Specialist(spec, (build_network(spec),)).to("cpu")
    export_network(specialist, "onnx", tmp_path / "onnx")
    label, _ = segment(tmp_path / "onnx", file)
    volume = Volume(channels[..., 0].copy(), affine, further=(channels[..., 1].copy(),))
    _check(nibabel.Nifti1Image(label, affine), predict(specialist, volume).labels(), affine)


def test_the_bundle_says_what_it_is(tmp_path: Path) -> None:
    export_network(_specialist(members=2), "bundle", tmp_path / "export")
    about = json.loads((tmp_path / "export" / "configs" / "metadata.json").read_text())
    assert about["label_classes"] == {"0": "background", "1": "ball", "2": "rod"}
    outputs = about["network_data_format"]["outputs"]["pred"]
    assert outputs["num_channels"] == 6
    assert outputs["channel_def"]["4"] == "ball"
    assert about["training"] == {"recipe": "semisam_o1"}
    for name in ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"):
        assert about[name]
    pieces = [file.read_text() for file in (tmp_path / "export" / "scripts").glob("*.py")]
    assert len(pieces) >= 9
    assert not [text for text in pieces if "from lib" in text or "import lib" in text]


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export_network(_specialist(), "bundle", folder)
    before = (folder / "models" / "model.ts").read_bytes()
    cached = folder / "scripts" / "__pycache__"  # as a run of the export leaves it
    cached.mkdir()
    script = next((folder / "scripts").glob("*.py")).stem
    (cached / f"{script}.cpython-312.pyc").touch()
    export_network(_specialist("vnet"), "bundle", folder)
    assert (folder / "models" / "model.ts").read_bytes() != before
    assert not cached.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(UserError, match="something else than an export"):
        export_network(_specialist(), "bundle", tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "other"]


@pytest.mark.parametrize("strange", ["notes.txt", "labels/turned_seg.nii.gz", "models/other.pt", "scripts/mine/"])
def test_a_file_beside_an_export_keeps_it_from_being_replaced(tmp_path: Path, strange: str) -> None:
    folder = tmp_path / "export"
    export_network(_specialist(), "bundle", folder)
    path = folder / strange
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if strange.endswith("/") else path.write_text("of a person")
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=strange.rstrip("/")) as refused:
        export_network(_specialist("vnet"), "bundle", folder)
    assert refused.value.status == 409
    assert sorted(folder.rglob("*")) == before
    assert [each.name for each in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(("form", "file"), [("bundle", "configs/metadata.json"), ("onnx", "model.json")])
def test_the_folder_of_another_program_is_no_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, file: str
) -> None:
    """Many programs call a file like that."""
    monkeypatch.setitem(formats.NETWORK_FORMATS, form, (lambda: None, lambda specialist, folder: None))
    theirs = tmp_path / "theirs" / file
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    (tmp_path / "theirs" / "weights.pt").touch()
    with pytest.raises(UserError, match="something else than an export") as refused:
        export_network(_specialist(), form, tmp_path / "theirs")
    assert refused.value.status == 409
    assert theirs.read_text() == "{}"
    assert (tmp_path / "theirs" / "weights.pt").exists()


def test_what_arrives_while_an_export_is_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "export"
    export_network(_specialist(), "bundle", folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (write,) = formats.NETWORK_FORMATS["bundle"][1:]

    def slowly(specialist: Specialist, made: Path) -> None:
        write(specialist, made)
        (folder / "notes.txt").write_text("of a person")

    monkeypatch.setitem(formats.NETWORK_FORMATS, "bundle", (lambda: None, slowly))
    with pytest.raises(UserError, match=r"notes\.txt"):
        export_network(_specialist("vnet"), "bundle", folder)
    assert (folder / "notes.txt").read_text() == "of a person"
    assert {path: path.read_bytes() for path in before} == before
    assert [each.name for each in tmp_path.iterdir()] == ["export"]


def test_what_cannot_be_exported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = SpecialistSpec(TINY_LABELS, (4, 8), (1.0, 1.0, 1.0), (16, 16, 1), network="unet2d", flat=True)
    with pytest.raises(UserError, match="2D images"):
        export_network(Specialist(flat, (build_network(flat),)), "bundle", tmp_path / "a")
    sam = SpecialistSpec(TINY_LABELS, (4,), (1.0, 1.0, 1.0), (16, 16, 1), network="sam")
    with pytest.raises(UserError, match="holds a SAM"):
        export_network(Specialist(sam, (nn.Identity(),)), "bundle", tmp_path / "a")
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-onnx\.txt"):
        export_network(_specialist(), "onnx", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
