"""A specialist as ONNX (https://onnx.ai), with a program that runs it by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

from lib.core.errors import UserError
from lib.core.json_files import write_json
from lib.specialists.checkpoint import Specialist

from .network import PortableNetwork, example, overlap, window
from .pieces import PROGRAM, write_pieces

_NEEDED = ("onnx", "onnxscript")
_OPSET = 20
_START = '"""Segments a scan."""\n\nfrom scripts.program import main\n\nmain()\n'
_README = """\
# A segmentation network of semisam, as ONNX

    pip install onnxruntime torch monai nibabel itk
    python segment.py SCAN.nii.gz LABEL.nii.gz

`segment.py` puts the scan on the network's grid, runs `model.onnx` window by window, and writes the label on the scan's
own grid, as semisam's `segment` does. A label's values are those of `model.json`, `structures`.

For a program of your own: the input `image` of `model.onnx` is float32 `[1, {inputs}, {window}]`, along right,
anterior, superior, with voxels of {spacing} mm; `scripts/prepare.py` says which intensities it takes. The output
`logits` has the logits of {members} network(s), each of {classes} classes with background first: softmax of each, then
the mean.

{part}Research use only. Not a medical device.
"""
_PART = """\
The network works on a part of a scan, of about {size} mm around the structures: say which, in voxels of the scan, with
`--box i0 i1 j0 j1 k0 k1`.

"""


def check_onnx() -> None:
    """Raise UserError (409) unless the packages are there that write ONNX."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            f"To write ONNX, {' and '.join(missing)} must be installed: pip install -r requirements-onnx.txt",
            status=409,
        )


def write_onnx(specialist: Specialist, folder: Path) -> None:
    """Write ``model.onnx``, ``model.json``, ``segment.py`` and what it needs.

    Args:
        specialist: whose networks can be exported, see ``check_portable``.
        folder: an empty one.
    """
    spec = specialist.spec
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            PortableNetwork(specialist),
            (example(spec),),
            str(folder / "model.onnx"),
            input_names=["image"],
            output_names=["logits"],
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    about = {
        "structures": {name: n for n, name in enumerate(spec.label_names, 1)},
        "classes": spec.channels,
        "members": len(specialist.members),
        "window": list(window(spec)),
        "overlap": overlap(spec),
        "spec": spec.as_plain(),
    }
    write_json(folder / "model.json", about)
    write_pieces(folder / "scripts", PROGRAM)
    (folder / "segment.py").write_text(_START, encoding="utf-8")
    part = "" if spec.part is None else _PART.format(size=" x ".join(f"{n:.0f}" for n in spec.part))
    text = _README.format(
        inputs=spec.inputs,
        window=", ".join(str(n) for n in window(spec)),
        spacing=" x ".join(f"{n:g}" for n in spec.spacing),
        members=len(specialist.members),
        classes=spec.channels,
        part=part,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
