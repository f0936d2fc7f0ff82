"""What is needed to predict with networks that nnU-Net has trained, besides their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.upstream.nnunet_environment import nnunet_environment
from lib.upstream.nnunet_plans import check_network


@dataclass(frozen=True, eq=False)
class NnunetScheme:
    """nnU-Net's choices for a data set.

    Args:
        plans: content of its plans file: spacing, intensities, window, network.
        dataset: content of ``dataset.json``.
        configuration: which of the plans was trained.
        mirror_axes: axes along which predictions of mirrored windows are averaged.
    """

    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    configuration: str
    mirror_axes: tuple[int, ...]

    def as_plain(self) -> dict[str, object]:
        """The fields as text and numbers."""
        return {
            "plans": json.dumps(self.plans),
            "dataset": json.dumps(self.dataset),
            "configuration": self.configuration,
            "mirror_axes": list(self.mirror_axes),
        }

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> NnunetScheme:
        """The reverse of ``as_plain``.

        Raises:
            KeyError, TypeError, ValueError: when fields are missing or of a wrong kind.
        """
        plans, dataset = json.loads(content["plans"]), json.loads(content["dataset"])
        check_network(plans["configurations"][str(content["configuration"])])
        return cls(plans, dataset, str(content["configuration"]), tuple(content["mirror_axes"]))

    def build_network(self) -> nn.Module:
        """The network of the plans, with fresh random weights and without deep supervision."""
        with nnunet_environment():
            from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
            from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

            plans = PlansManager(dict(self.plans))
            network: nn.Module = nnUNetTrainer.build_network_architecture(
                plans,
                plans.get_configuration(self.configuration),
                len(self.dataset["channel_names"]),
                len(self.dataset["labels"]),
                enable_deep_supervision=False,
            )
        return network


def predict_scan(scheme: NnunetScheme, members: Sequence[nn.Module], volume: Volume) -> tuple[Frame, Tensor]:
    """Predict a scan with nnU-Net's own predictor: its preprocessing, sliding window, mirroring and resampling.

    Args:
        scheme: nnU-Net's choices.
        members: networks on one device; nnU-Net averages their logits.
        volume: the scan, with the channels of the training at least.

    Returns:
        The frame of the scan's content at its own resolution, and ``[1 + N, D, H, W]`` float32 on it, sum 1.
    """
    frame = frame_of(volume)
    device = next(members[0].parameters()).device
    with nnunet_environment():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        plans = PlansManager(dict(scheme.plans))
        predictor = nnUNetPredictor(device=device, allow_tqdm=False)
        predictor.manual_initialization(
            scheme.build_network().to(device).eval(),
            plans,
            plans.get_configuration(scheme.configuration),
            [dict(member.state_dict()) for member in members],
            dict(scheme.dataset),
            "nnUNetTrainer",
            scheme.mirror_axes or None,
        )
        # Arrays as its reader gives them: [C, z, y, x].
        seen = volume.all_clipped[: len(scheme.dataset["channel_names"])]
        stacked = np.stack([frame.crop(each).transpose(2, 1, 0) for each in seen])
        content = np.ascontiguousarray(stacked, dtype=np.float32)
        spacing = {"spacing": [float(v) for v in reversed(frame.voxel)]}
        _, probabilities = predictor.predict_single_npy_array(content, spacing, save_or_return_probabilities=True)
    array = np.asarray(probabilities, dtype=np.float32).transpose(0, 3, 2, 1)
    return frame, torch.from_numpy(np.ascontiguousarray(array))
