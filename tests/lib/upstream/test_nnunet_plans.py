"""nnU-Net imports and calls what its plans name."""

from __future__ import annotations

from typing import Any

import pytest

from lib.upstream.nnunet_plans import check_network


def configuration(**kwargs: Any) -> dict[str, Any]:
    return {
        "patch_size": [32, 32, 32],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {"n_stages": 3, "conv_op": "torch.nn.modules.conv.Conv3d", "dropout_op": None, **kwargs},
            "_kw_requires_import": ["conv_op", "dropout_op"],
        },
    }


def test_any_callable_is_called_without_us() -> None:
    pytest.importorskip("nnunetv2", reason="pip install -r requirements-nnunet.txt")
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    made = get_network_from_plans("types.SimpleNamespace", {"act": "os.system"}, ["act"], 1, 2, allow_init=False)
    assert made.act is __import__("os").system


def test_only_its_own_networks_pass() -> None:
    check_network(configuration())
    for wrong in (
        configuration(conv_op="os.system"),
        configuration(conv_op="torch.nn.modules.__builtins__"),
        {**configuration(), "inherits_from": "other"},
        configuration(n_stages=1000),
        {**configuration(), "patch_size": [10**4] * 3},
    ):
        with pytest.raises(ValueError, match="its plans"):
            check_network(wrong)
