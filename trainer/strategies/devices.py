"""The device and the precision with which this process computes."""

from typing import Literal, assert_never

import torch

from trainer.errors import BadRecipe

Accelerator = Literal["cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]


def find_accelerator(name: Accelerator | Literal["auto"] = "auto") -> Accelerator:
    """Returns the accelerator of that name, or the best one of this machine.

    Raises BadRecipe if this machine does not have it.
    """
    available: dict[Accelerator, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(kind for kind, is_available in available.items() if is_available)
    if not available[name]:
        raise BadRecipe(
            f"machine.accelerator={name}, but PyTorch finds no such device on this machine; use"
            " auto or cpu, or install a PyTorch build for the device"
        )
    return name


def own_device(name: Accelerator | Literal["auto"] = "auto") -> torch.device:
    """Returns the device of this process. If there are several GPUs, it is the current one."""
    kind = find_accelerator(name)
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def choose_precision(name: Precision | Literal["auto"], kind: Accelerator) -> Precision:
    """Returns the precision of that name.

    `auto` is bf16 if the hardware has instructions for it, otherwise fp16 on a GPU and fp32
    elsewhere. Raises BadRecipe for fp16 on a CPU.
    """
    if name == "fp16" and kind == "cpu":
        raise BadRecipe(
            "precision fp16 needs a GPU, because CPUs compute it slowly; use bf16 or fp32"
        )
    if name != "auto":
        return name
    match kind:
        case "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        case "cpu":
            has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            return "bf16" if has_bf16 else "fp32"
        case "mps":
            return "fp32"
        case _:
            assert_never(kind)
