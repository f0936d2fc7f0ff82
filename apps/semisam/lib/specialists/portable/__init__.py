"""A trained specialist for other programs: as ONNX, or as a bundle of MONAI, with all that its answer depends on.

What is done to a scan before the network sees it, and to its answer afterwards, goes along as Python files
(``scripts/``): copies of the very modules that the server uses, see ``pieces``. They need PyTorch, MONAI and NiBabel,
and nothing of semisam.
"""

from .formats import NETWORK_FORMATS, export_network

__all__ = ["NETWORK_FORMATS", "export_network"]
