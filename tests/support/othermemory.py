"""A device that is none, to see on any machine whether code keeps its tensors together.

Tensors of ``OTHER`` have their values in the CPU's memory but count as another device's. Whatever would fail on a GPU
fails here: operations on tensors of two devices, and ``numpy``. What they compute is what the CPU computes, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

OTHER = "meta"
"""A device's name that needs no driver."""

_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class _Elsewhere(Tensor):
    """A tensor of ``OTHER``; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _Elsewhere:
        made: _Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            dtype=held.dtype,
            device=torch.device(OTHER),
            storage_offset=held.storage_offset(),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(function, args, kwargs or {})


@contextmanager
def other_memory() -> Iterator[None]:
    """Within it, tensors can be moved to ``OTHER`` and made there."""
    literal = torch.tensor

    def tensor(data: Any, *, device: Any = None, **how: Any) -> Tensor:
        # The original moves what it makes by a way of its own.
        made = literal(data, **how)
        return made if device is None else made.to(device)

    with patch.object(torch, "tensor", tensor), _Operations():
        yield


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(function, args, kwargs or {})


def _computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    there = [isinstance(each, _Elsewhere) for each in tensors]
    asked = kwargs.get("device")
    if any(there) and function not in _MOVES:
        # Numbers as tensors go with all devices; so do indices from the CPU.
        bound = args[:1] if function in _INDEXED else tensors
        if any(not isinstance(each, _Elsewhere) and each.ndim for each in bound):
            raise RuntimeError(f"{function}: tensors of two devices")
    held = tree_map(lambda each: each.held if isinstance(each, _Elsewhere) else each, (args, kwargs))
    if asked is not None:
        held[1]["device"] = torch.device("cpu")
    if function is _aten._conj.default:  # else only a flag on the tensor held, which is not looked at here
        function = _aten._conj_physical.default
    result = function(*held[0], **held[1])
    if function is _aten.copy_.default or str(function).split(".")[1].endswith("_"):
        return args[0]
    goes = torch.device(asked).type == OTHER if asked is not None else any(there)
    return tree_map(lambda each: _Elsewhere(each) if isinstance(each, Tensor) else each, result) if goes else result
