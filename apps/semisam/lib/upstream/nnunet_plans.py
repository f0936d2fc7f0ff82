"""Plans of nnU-Net that nobody vouches for: they come with a checkpoint.

- Package: nnU-Net 2.8.1 (``nnunetv2``), ``nnunetv2/utilities/get_network_from_plans.py``.
- Wrong: nnU-Net imports and calls whatever its plans name as network, or as a part of it.
- Done: the plans may name only what comes from where nnU-Net's own networks and their parts do, with sizes as nnU-Net
  plans them.
- Source: https://github.com/MIC-DKFZ/nnUNet/blob/master/nnunetv2/utilities/get_network_from_plans.py
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_PLACES = ("dynamic_network_architectures.", "torch.nn.")
_MOST_PATCH = 2**27
_MOST_STAGES = 16


def check_network(configuration: Mapping[str, Any]) -> None:
    """Raise ValueError unless a configuration of the plans names a network, and its parts, of nnU-Net's own.

    Raises:
        KeyError, TypeError, ValueError: when fields are missing or of a wrong kind.
    """
    network = configuration["architecture"]
    kwargs, parts = network["arch_kwargs"], network["_kw_requires_import"]
    named = [network["network_class_name"], *(kwargs[part] for part in parts if kwargs[part] is not None)]
    if "inherits_from" in configuration or not all(
        isinstance(name, str) and name.startswith(_PLACES) and "__" not in name for name in named
    ):
        raise ValueError("its plans name a network that is not nnU-Net's")
    if math.prod(configuration["patch_size"]) > _MOST_PATCH or int(kwargs["n_stages"]) > _MOST_STAGES:
        raise ValueError("its plans ask for more than nnU-Net plans")
