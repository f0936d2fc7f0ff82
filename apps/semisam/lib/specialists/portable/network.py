"""The networks of a specialist as one that can be written down without its code."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lib.core.errors import UserError
from lib.specialists.checkpoint import Specialist
from lib.specialists.networks.sam.build import SAM_KINDS
from lib.specialists.predict import OVERLAP
from lib.specialists.spec import SpecialistSpec
from lib.upstream.torch_convolution import use_plain_convolutions
from lib.upstream.torch_norm import use_plain_normalisation


class PortableNetwork(nn.Module):
    """The logits of all members side by side: ``[1, inputs, *window]`` to ``[1, members * classes, *window]``.

    Not their mean: each member's logits are joined over the windows of a scan before they become probabilities.

    Args:
        specialist: the specialist, which stays as it is.
    """

    def __init__(self, specialist: Specialist) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(member) for member in specialist.members)
        use_plain_convolutions(self)
        use_plain_normalisation(self)
        self.to("cpu").eval().requires_grad_(requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """See above."""
        return torch.cat([member(image) for member in self.members], dim=1)


def check_portable(specialist: Specialist) -> None:
    """Raise UserError (422) for a specialist that other programs cannot run."""
    if specialist.nnunet is not None:
        raise UserError(
            "This specialist is nnU-Net's own network, with nnU-Net's own steps before and after it. Train another "
            "network to export it, or train nnU-Net on an export of the labels: --format nnunet.",
            status=422,
        )
    if specialist.spec.network in SAM_KINDS:
        raise UserError(
            "This specialist holds a SAM, which cannot be exported. Train with network unet2d to export it.", status=422
        )
    if specialist.spec.flat:
        raise UserError("This specialist works on 2D images; only those for volumes can be exported.", status=422)


def window(spec: SpecialistSpec) -> tuple[int, int, int]:
    """Voxels of the one window that an exported network takes; a single slice for networks that see slices."""
    sizes = list(spec.roi_size)
    if spec.by_slice:
        sizes[spec.slice_axis] = 1
    return sizes[0], sizes[1], sizes[2]


def overlap(spec: SpecialistSpec) -> list[float]:
    """Share by which neighbouring windows overlap, by axis."""
    return [0.0 if spec.by_slice and axis == spec.slice_axis else OVERLAP for axis in range(3)]


def example(spec: SpecialistSpec) -> Tensor:
    """An image of noise as the network takes it, ``[1, inputs, *window]``."""
    return torch.randn(1, spec.inputs, *window(spec), generator=torch.Generator().manual_seed(0))
