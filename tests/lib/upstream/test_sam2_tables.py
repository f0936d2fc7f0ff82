"""SAM 2's tables of rotations stay behind when the network is moved."""

from __future__ import annotations

from typing import Any

import torch

from lib.generalists.sam2video.networks import make
from lib.upstream.sam2_tables import move_tables


def tables(network: Any) -> list[torch.Tensor]:
    return [module.freqs_cis for module in network.modules() if hasattr(module, "freqs_cis")]


def test_they_do_not_go_where_the_network_goes_without_us() -> None:
    network = make("medsam2", 128)
    before = {table.device.type for table in tables(network)}
    network.to("meta")
    assert next(network.parameters()).device.type == "meta"
    assert {table.device.type for table in tables(network)} == before
    move_tables(network, torch.device("meta"))
    assert {table.device.type for table in tables(network)} == {"meta"}
