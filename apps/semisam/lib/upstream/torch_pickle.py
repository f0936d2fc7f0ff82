"""What a file of ``torch.save`` may name.

- Package: PyTorch 2.12.1, ``torch.load``.
- Lacks: a way to allow tensors only. With ``weights_only`` it runs no code of the file, but takes more than tensors:
  sparse and nested ones, views, and whatever else its list has in the next version.
- Done: the pickle's operations are looked at first; beside storages, two names that PyTorch writes for every tensor may
  stand in it, one of them private.
- Source: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import pickletools

_ALLOWED = frozenset({("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")})
_OBJECTS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})
"""Operations that ``torch.save`` does not need for tensors."""


def check_pickle(content: bytes) -> None:
    """Raise ValueError when a pickle names anything but tensors, their storages and ordered tables."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            if (module, name) not in _ALLOWED and not (module == "torch" and name.endswith("Storage")):
                raise ValueError(f"{module}.{name} has no place in it")
        elif operation.name in _OBJECTS:
            raise ValueError("it wants to make objects")
