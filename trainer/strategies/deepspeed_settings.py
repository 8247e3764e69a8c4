"""What of a DeepSpeed configuration may decide where and how fast a run runs, and what is refused
because it decides what is learned.
"""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from trainer.errors import BadMachine

Settings = dict[str, Any]

SPEED = {
    "zero_optimization",
    "bf16",
    "fp16",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "comms_logger",
    "flops_profiler",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "prescale_gradients",
    "gradient_predivide_factor",
}
"""Sections that may stand in a DeepSpeed file; the last ones only at the value that changes
nothing.
"""
HARMLESS: dict[str, tuple[Any, str]] = {
    "train_batch_size": ("auto", "the batch is the recipe's optimization.batch_size"),
    "train_micro_batch_size_per_gpu": (
        "auto",
        "micro-batches are the recipe's machine.micro_batch_tokens",
    ),
    "gradient_accumulation_steps": (
        1,
        (
            "a larger batch is the recipe's optimization.batch_size; it is cut into micro-batches"
            " within one step"
        ),
    ),
    "gradient_clipping": (0, "clipping is the recipe's optimization.gradient_clip_norm"),
    "prescale_gradients": (False, "gradients are averaged over ranks, once"),
    "gradient_predivide_factor": (1, "gradients are averaged over ranks, once"),
}
APPROXIMATE = (
    "zero_quantized_weights",
    "zero_quantized_gradients",
    "zero_quantized_nontrainable_weights",
    "zeropp_loco_param",
    "zenflow",
)
"""Parts of `zero_optimization` that change the gradient for speed."""


def deepspeed_settings(section: Mapping[str, Any], source: str) -> Settings:
    """What DeepSpeed is given, from `deepspeed_config` of a machine file and the file it may name;
    without `auto`. Raises BadMachine.
    """
    given = _written_out(section, source)
    for key, value in given.items():
        if key not in SPEED:
            raise BadMachine(
                f"{source}: DeepSpeed's {key!r} is not supported, as it may change what is learned;"
                f" remove it. Allowed: {', '.join(sorted(SPEED))}"
            )
        if key in HARMLESS and not _harmless(key, value):
            raise BadMachine(
                f"{source}: DeepSpeed's {key} is {value}, which would change what the recipe says:"
                f" {HARMLESS[key][1]}; remove it"
            )
    zero = _zero(_without_auto(given.get("zero_optimization") or {}), source)
    kept = {
        key: _without_auto(value)
        for key, value in given.items()
        if key not in HARMLESS and key not in ("zero_optimization", "bf16") and value != "auto"
    }
    # torch's optimizers, whose arithmetic is that of the other strategies
    return kept | {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def settle_device(device: str | None) -> None:
    """Tells DeepSpeed, where it is installed, which device it is for (None: GPUs if there are any).
    To be called before transformers is imported.

    Transformers imports DeepSpeed, which then settles on a device for good, and prints a warning
    where it finds no GPU.
    """
    if find_spec("deepspeed") is None or "DS_ACCELERATOR" in os.environ:
        return
    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ["DS_ACCELERATOR"] = device


def wants_precision(section: Mapping[str, Any], source: str) -> Literal["bf16", "fp16"] | None:
    """The half precision that the DeepSpeed settings enable."""
    given = _written_out(section, source)
    if (given.get("bf16") or {}).get("enabled") is True:
        return "bf16"
    return "fp16" if (given.get("fp16") or {}).get("enabled") is True else None


def _written_out(section: Mapping[str, Any], source: str) -> Settings:
    """The DeepSpeed dictionary: the named file, or what the few keys of a machine file stand
    for.
    """
    file = section.get("deepspeed_config_file", section.get("config_file"))
    if file not in (None, "none"):
        return _read(Path(str(file)), source)
    given: Settings = {"zero_optimization": {"stage": section.get("zero_stage", 2)}}
    for part in ("optimizer", "param"):
        device = section.get(f"offload_{part}_device", "none")
        given["zero_optimization"][f"offload_{part}"] = {"device": device}
    return given | {
        key: section[key]
        for key in ("gradient_accumulation_steps", "gradient_clipping")
        if key in section
    }


def _read(path: Path, source: str) -> Settings:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadMachine(
            f"{source} names the DeepSpeed file {path}, which cannot be read from {Path.cwd()}:"
            f" {error.strerror}"
        ) from error
    except ValueError as error:
        raise BadMachine(f"DeepSpeed file {path} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise BadMachine(f"DeepSpeed file {path} holds no JSON object")
    return given


def _harmless(key: str, value: Any) -> bool:
    if str(value).lower() in ("auto", "none", str(HARMLESS[key][0]).lower()):
        return True
    try:
        return float(value) == float(HARMLESS[key][0])
    except (TypeError, ValueError):
        return False


def _zero(zero: Settings, source: str) -> Settings:
    stage = zero.get("stage", 2)
    if str(stage) not in ("1", "2", "3"):
        raise BadMachine(
            f"{source}: ZeRO stage {stage!r} is not 1, 2 or 3; for none of them use"
            " distributed_type: MULTI_GPU"
        )
    if wrong := [key for key in APPROXIMATE if zero.get(key)]:
        raise BadMachine(f"{source}: {wrong[0]} changes the gradient for speed; remove it")
    settings = dict(zero) | {"stage": int(stage)}
    if settings["stage"] == 3:
        # Else DeepSpeed looks, after each of many small modules, through all that is still to run
        # in the step: minutes with micro-batches.
        settings.setdefault("stage3_max_reuse_distance", 0)
    for part in ("offload_optimizer", "offload_param"):
        device = str((settings.pop(part, None) or {}).get("device", "none")).lower()
        if device not in ("none", "cpu"):
            raise BadMachine(f"{source}: {part} to {device!r} is not supported; use cpu or none")
        if device == "cpu" and part == "offload_param" and settings["stage"] != 3:
            raise BadMachine(
                f"{source}: offload_param needs ZeRO stage 3, not {stage}; set zero_stage: 3, or"
                " offload the optimizer only"
            )
        if device == "cpu":
            settings[part] = dict(zero[part]) | {"device": "cpu"}
    return settings


def _without_auto(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_auto(part) for key, part in value.items() if part != "auto"}
    return value
