"""The machine and the library versions that measurements were made with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import psutil
import torch


def machine_facts() -> dict[str, Any]:
    """Cores, memory, GPUs and versions, for the ``run`` event."""
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "deepspeed")},
    }
