"""MONAI's DynUNet gives its head's answer only, and holds each weight twice."""

from __future__ import annotations

import torch
from monai.networks.nets import DynUNet

from lib.upstream.dynunet import drop_nested_copy, features_of


def make() -> DynUNet:
    torch.manual_seed(0)
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 8, 16],
    ).eval()


def test_each_weight_stands_in_the_state_twice_without_us() -> None:
    network = make()
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    kept = [name for name in names if not name.startswith("skip_layers.")]
    assert len(names) > 1.5 * len(kept)
    drop_nested_copy(network)
    assert [name for name, _ in network.named_parameters(remove_duplicate=False)] == kept


def test_the_head_answers_our_features_as_the_network_answers_the_image() -> None:
    network = make()
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        expected = network(image)
        drop_nested_copy(network)
        assert torch.equal(network.output_block(features_of(network, image)), expected)


def test_it_has_no_features_of_its_own() -> None:
    assert not [name for name in dir(DynUNet) if "feature" in name or "encode" in name]
