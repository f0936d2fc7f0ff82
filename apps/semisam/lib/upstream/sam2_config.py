"""The description of a SAM 2 network, read from the package's own file.

- Package: sam2 1.1.0, ``sam2/__init__.py`` and ``sam2/build_sam.py``.
- Wrong: the package's builder looks its files up through Hydra's search path, of which a process has one. It fails when
  another part of the program has set that path before.
- Done: the file is read from the package's folder. Importing the package sets the path only if nobody has.
- Source: https://github.com/facebookresearch/sam2/blob/main/sam2/__init__.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def description(name: str) -> Any:
    """The settings of a SAM 2.1 network as OmegaConf reads them; ``hydra.utils.instantiate`` builds it from ``model``.

    Args:
        name: of the file, without ``.yaml``.
    """
    # Here, not at the top: only who asks for one of these models needs the package and what its import does.
    import sam2  # type: ignore[import-untyped]
    from omegaconf import OmegaConf

    return OmegaConf.load(Path(sam2.__path__[0]) / "configs" / "sam2.1" / f"{name}.yaml")
