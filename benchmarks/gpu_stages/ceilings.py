"""What the machine can do at most: copies and matrix products; and what is installed."""

import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import torch

from gpu_stages.setting import Case, Setting


def cases(setting: Setting) -> Mapping[str, Case]:
    return {
        "device": lambda: device(setting),
        "copy TB/s": lambda: copy_terabytes(setting),
        "bf16 TFLOP/s": lambda: product_teraflops(setting, torch.bfloat16),
        "fp32 TFLOP/s": lambda: product_teraflops(setting, torch.float32),
    }


def device(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {"device": str(setting.device), "CUDA": str(torch.version.cuda)}
    if setting.is_cuda:
        properties = torch.cuda.get_device_properties(setting.device)
        found |= {"name": properties.name, "GB": properties.total_memory / 1e9}
    if shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,clocks.sm,power.limit"
        words = ["nvidia-smi", query, "--format=csv,noheader"]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        found["nvidia-smi"] = ended.stdout.strip()
    return found


def copy_terabytes(setting: Setting) -> float:
    source = torch.empty(setting.size(2**30, 2**10), device=setting.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / setting.seconds(lambda: target.copy_(source), 5) / 1e12


def product_teraflops(setting: Setting, dtype: torch.dtype) -> float:
    side = setting.size(8192, 64)
    left, right = (setting.random(side, side, seed=seed).to(dtype) for seed in (0, 1))
    return 2 * side**3 / setting.seconds(lambda: left @ right, 10) / 1e12
