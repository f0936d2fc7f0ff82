"""Segments scans with an exported network and onnxruntime: ``python segment.py SCAN.nii.gz LABEL.nii.gz``.

This file is copied into each ONNX export, and runs there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from lib.specialists.portable.transforms import Prepared, labels_of, read


def main() -> None:
    """Segment one scan."""
    parser = argparse.ArgumentParser(description="Segment a scan.")
    parser.add_argument("scan", type=Path, help="NIfTI or NRRD file, or a folder with one DICOM series")
    parser.add_argument("label", type=Path, help="written: NIfTI, on the scan's own grid")
    parser.add_argument(
        "--box", type=int, nargs=6, metavar="N", help="i0 i1 j0 j1 k0 k1, for a network that works on a part of a scan"
    )
    chosen = parser.parse_args()
    label, affine = segment(Path(__file__).resolve().parent.parent, chosen.scan, chosen.box)
    nibabel.save(nibabel.Nifti1Image(label, affine), chosen.label)


def segment(folder: Path, scan: Path, box: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The label of a scan, ``[D, H, W]`` uint8 on its own grid, and its affine ``[4, 4]``.

    Args:
        folder: of the export.
        scan: file of the scan.
        box: see ``Prepared``, as six numbers.
    """
    import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    there = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in there]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=providers)

    def answer(windows: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"image": windows.numpy()})[0])

    image = read(scan)
    pairs = None if box is None else [box[0:2], box[2:4], box[4:6]]
    frame, prepared = Prepared(about["spec"], pairs).prepare(image)
    inferer = SlidingWindowInferer(about["window"], 1, about["overlap"], mode="gaussian", padding_mode="replicate")
    logits = inferer(prepared[None], answer)
    if not isinstance(logits, Tensor):
        raise TypeError("the network must answer with one tensor")
    label = labels_of(logits[0], frame, about["classes"], about["spec"].get("volume_weights"))
    return label, np.asarray(image.affine)


if __name__ == "__main__":
    main()
