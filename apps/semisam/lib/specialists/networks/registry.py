"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lib.core.errors import UserError
from lib.specialists.spec import SpecialistSpec
from lib.upstream.torch_convolution import use_cpu_convolutions
from lib.upstream.torch_norm import use_cpu_normalisation

from .base import SpecialistNetwork
from .dynunet import DynUNetSpecialist
from .sam.build import SAM_KINDS, build_sam
from .unet2d import UNet2d
from .unet3d import UNet3d
from .vnet import VNet

NETWORKS: Mapping[str, Callable[[SpecialistSpec], SpecialistNetwork]] = {
    "unet3d": lambda spec: UNet3d(spec.channels, spec.widths, spec.dropout, spec.inputs),
    "vnet": lambda spec: VNet(spec.channels, spec.widths, spec.dropout, spec.inputs),
    "dynunet": lambda spec: DynUNetSpecialist(
        spec.channels, spec.widths, spec.spacing, spec.roi_size, spec.dropout, spec.inputs
    ),
    "unet2d": lambda spec: UNet2d(spec.channels, spec.widths, spec.dropout, spec.inputs, spec.slice_axis),
    **dict.fromkeys(SAM_KINDS, build_sam),
}
"""Builders with fresh random weights."""


def build_network(spec: SpecialistSpec) -> SpecialistNetwork:
    """A network with fresh random weights.

    Raises:
        UserError: when ``spec.network`` is not known.
    """
    if spec.network not in NETWORKS:
        raise UserError(f"There is no network {spec.network!r}. Known: {', '.join(NETWORKS)}.")
    network = NETWORKS[spec.network](spec)
    use_cpu_convolutions(network)
    use_cpu_normalisation(network)
    result: SpecialistNetwork = network.to(memory_format=network.layout)  # type: ignore[call-overload]
    return result
