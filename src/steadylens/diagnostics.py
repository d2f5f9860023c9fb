"""What `steadylens doctor` looks at: the machine, what will be used of it, and what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from steadylens import __version__
from steadylens.data.store import cache_folder
from steadylens.report.contents import environment
from steadylens.training.resolution import choose_device
from steadylens.training.speed import choose_precision

_LITTLE_MEMORY_GB = 4
_LITTLE_DISK_GB = 5


def examine() -> dict[str, Any]:
    """Look at the machine; the only thing run is one small convolution, to time it."""
    device, device_reason = choose_device("auto")
    precision, precision_reason = choose_precision("auto", device)
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    found: dict[str, Any] = {
        "steadylens": __version__,
        **environment(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": f"{device}: {device_reason}",
        "precision": f"{precision}: {precision_reason}",
        "cache": str(cache),
        "cache_free_gb": round(shutil.disk_usage(existing).free / 2**30, 1),
        "cache_writable": os.access(existing, os.W_OK),
    }
    return {**found, "warnings": _warnings(found, Path(existing))}


def text(found: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [f"{name.replace('_', ' '):<16} {value}" for name, value in found.items() if name != "warnings"]
    return "\n".join([*lines, "", *(found["warnings"] or ["Nothing is missing."])])


def _warnings(found: dict[str, Any], folder: Path) -> list[str]:
    warnings = []
    if not torch.cuda.is_available():
        warnings.append("No CUDA device: training runs on the processor.")
    if found["memory_gb"] < _LITTLE_MEMORY_GB:
        warnings.append(f"Only {found['memory_gb']} GB of memory: take small images and networks.")
    if not found["cache_writable"]:
        warnings.append(f"{folder} cannot be written: set STEADYLENS_CACHE to a folder that can.")
    if found["cache_free_gb"] < _LITTLE_DISK_GB:
        warnings.append(f"Only {found['cache_free_gb']} GB free for decoded images: set STEADYLENS_CACHE elsewhere.")
    return warnings
