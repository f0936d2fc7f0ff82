"""A specialist as a bundle of MONAI (https://docs.monai.io/en/stable/mb_specification.html).

::

    configs/metadata.json   configs/inference.json
    models/model.ts         the networks as TorchScript
    scripts/                what is done before and after
    docs/README.md          LICENSE
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import monai
import numpy as np
import torch

from lib.core.json_files import write_json
from lib.specialists.checkpoint import Specialist
from lib.specialists.spec import SpecialistSpec

from .network import PortableNetwork, example, overlap, window
from .pieces import write_pieces

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_VERSION = "0.1.0"
_LICENSE = Path(__file__).resolve().parents[5] / "LICENSE"
_README = """\
# A segmentation network of semisam, as a MONAI bundle

    pip install torch monai nibabel itk pytorch-ignite
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir LABELS

labels all `*.nii.gz` in the folder SCANS (another pattern: `--pattern '*.nrrd'`), as semisam's `segment` does: each
label lies on its scan's own grid. Values: {values}.

{part}Research use only. Not a medical device.
"""
_PART = """\
The network works on a part of a scan, of about {size} mm around the structures. Say which, in voxels of the scan:
`--box '[[i0, i1], [j0, j1], [k0, k1]]'`.

"""


def write_bundle(specialist: Specialist, folder: Path) -> None:
    """Write the bundle.

    Args:
        specialist: whose networks can be exported, see ``check_portable``.
        folder: an empty one.
    """
    spec = specialist.spec
    (folder / "models").mkdir()
    (folder / "docs").mkdir()
    with warnings.catch_warnings(), torch.no_grad():
        # PyTorch wants torch.export instead, whose files it promises to read in the same version only.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(PortableNetwork(specialist), example(spec), check_trace=False)
        torch.jit.save(traced, str(folder / "models" / "model.ts"))
    write_json(folder / "configs" / "metadata.json", _metadata(specialist))
    write_json(folder / "configs" / "inference.json", _inference(spec))
    write_pieces(folder / "scripts")
    values = ", ".join(f"{n} {name}" for n, name in enumerate(spec.label_names, 1))
    part = "" if spec.part is None else _PART.format(size=" x ".join(f"{n:.0f}" for n in spec.part))
    (folder / "docs" / "README.md").write_text(_README.format(values=values, part=part), encoding="utf-8")
    if _LICENSE.is_file():
        shutil.copyfile(_LICENSE, folder / "LICENSE")


def _metadata(specialist: Specialist) -> Mapping[str, object]:
    spec = specialist.spec
    classes = {"0": "background", **{str(n): name for n, name in enumerate(spec.label_names, 1)}}
    shape = list(window(spec))
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "any",
        "num_channels": spec.inputs,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(n): "image" for n in range(spec.inputs)},
    }
    pred = {
        **image,
        "format": "segmentation",
        "num_channels": spec.channels * len(specialist.members),
        "channel_def": {
            str(n * spec.channels + int(value)): name
            for n in range(len(specialist.members))
            for value, name in classes.items()
        },
    }
    return {
        "schema": _SCHEMA,
        "version": _VERSION,
        "changelog": {_VERSION: "exported by semisam"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "", "itk": "", "pytorch-ignite": ""},
        "name": "semisam specialist",
        "task": "segmentation",
        "description": f"Segments {', '.join(spec.label_names)}. Trained by semisam.",
        "authors": "",
        "copyright": "",
        "intended_use": "Research use only. Not a medical device.",
        "data_type": "nifti",
        "label_classes": classes,
        "training": {key: value for key, value in specialist.notes.items() if isinstance(value, (str, int, float))},
        "spec": spec.as_plain(),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def _inference(spec: SpecialistSpec) -> Mapping[str, object]:
    read = {"_target_": "LoadImaged", "keys": "image"}
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_ext": ".nii.gz",
        "output_dtype": "$numpy.uint8",
        "resample": False,
        "separate_folder": False,
    }
    return {
        "imports": ["$import glob", "$import os", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/labels'",
        "pattern": "*.nii.gz",
        "box": None,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, @pattern)))",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
        "network": "$@network_def.to(@device).eval()",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                read,
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "scripts.Prepared", "spec": spec.as_plain(), "box": "@box"},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': each} for each in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(window(spec)),
            "sw_batch_size": 1,
            "overlap": overlap(spec),
            "mode": "gaussian",
            "padding_mode": "replicate",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "scripts.Labelled", "classes": spec.channels, "volume_weights": spec.volume_weights},
                save,
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": [],
            "amp": False,
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
        "finalize": [],
    }
