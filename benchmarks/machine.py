"""What a measurement ran on, in words that fit any page: no name of a host, no path."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import methods

PACKAGES = ("torch", "monai", "numpy", "itk-elastix", "convexadam", "antspyx", "nnunetv2")


def describe() -> dict[str, str]:
    """Processor, memory, GPU, system and versions; ``not installed`` for a package that is not there."""
    import psutil  # type: ignore[import-untyped]

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "processor": f"{_processor()}, {usable} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "GPU": _gpu(),
        "system": f"{platform.system()}, {platform.machine()}",
        "Python": platform.python_version(),
        **{name: methods.package(name) or "not installed" for name in PACKAGES},
    }


def load() -> float:
    """Processes that want to run, mean of the last minute: about 0 on a machine that does nothing else."""
    return os.getloadavg()[0]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _gpu() -> str:
    try:
        import torch
    except ImportError:
        return "unknown"
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
