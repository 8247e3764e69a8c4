"""Reads a DeepSpeed configuration. Settings of speed and memory are used, and settings that change
the result of the training are refused.
"""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from trainer.errors import BadMachine

DeepSpeedSettings = dict[str, Any]

ALLOWED_SECTIONS = {
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
"""Sections that a DeepSpeed file may have. Those of `NEUTRAL_VALUES` must have the value there."""
NEUTRAL_VALUES: dict[str, tuple[Any, str]] = {
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
"""Keys of `zero_optimization` that change the gradient for speed."""


def deepspeed_settings(section: Mapping[str, Any], source: str) -> DeepSpeedSettings:
    """Returns the configuration for DeepSpeed, without "auto" values.

    `section` is `deepspeed_config` of a machine file, which may name a DeepSpeed file. Raises
    BadMachine.
    """
    file_settings = _expand(section, source)
    for key, value in file_settings.items():
        if key not in ALLOWED_SECTIONS:
            raise BadMachine(
                f"{source}: DeepSpeed's {key!r} is not supported, as it may change what is learned;"
                f" remove it. Allowed: {', '.join(sorted(ALLOWED_SECTIONS))}"
            )
        if key in NEUTRAL_VALUES and not _is_neutral(key, value):
            raise BadMachine(
                f"{source}: DeepSpeed's {key} is {value}, which would contradict the recipe:"
                f" {NEUTRAL_VALUES[key][1]}; remove it"
            )
    zero = _zero_settings(_without_auto(file_settings.get("zero_optimization") or {}), source)
    ignored_keys = {*NEUTRAL_VALUES, "zero_optimization", "bf16"}
    speed_settings = {
        key: _without_auto(value)
        for key, value in file_settings.items()
        if key not in ignored_keys and value != "auto"
    }
    # The optimizers are those of torch, with the same arithmetic as in the other strategies.
    return speed_settings | {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def set_deepspeed_device(device: str | None) -> None:
    """Sets the device of DeepSpeed, if it is installed; None means GPUs if there are any.

    It must be called before transformers is imported. transformers imports DeepSpeed, which chooses
    its device once and warns if it finds no GPU.
    """
    if find_spec("deepspeed") is None or "DS_ACCELERATOR" in os.environ:
        return
    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    os.environ["DS_ACCELERATOR"] = device


def deepspeed_precision(section: Mapping[str, Any], source: str) -> Literal["bf16", "fp16"] | None:
    """Returns the half precision that the DeepSpeed settings enable, or None."""
    file_settings = _expand(section, source)
    if (file_settings.get("bf16") or {}).get("enabled") is True:
        return "bf16"
    return "fp16" if (file_settings.get("fp16") or {}).get("enabled") is True else None


def _expand(section: Mapping[str, Any], source: str) -> DeepSpeedSettings:
    """Returns the settings from the DeepSpeed file, or from the keys of the machine file."""
    file = section.get("deepspeed_config_file", section.get("config_file"))
    if file not in (None, "none"):
        return _read(Path(str(file)), source)
    settings: DeepSpeedSettings = {"zero_optimization": {"stage": section.get("zero_stage", 2)}}
    for part in ("optimizer", "param"):
        device = section.get(f"offload_{part}_device", "none")
        settings["zero_optimization"][f"offload_{part}"] = {"device": device}
    return settings | {
        key: section[key]
        for key in ("gradient_accumulation_steps", "gradient_clipping")
        if key in section
    }


def _read(path: Path, source: str) -> DeepSpeedSettings:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadMachine(
            f"{source} names the DeepSpeed file {path}, which cannot be read from {Path.cwd()}:"
            f" {error.strerror}; correct the path"
        ) from error
    except ValueError as error:
        raise BadMachine(f"DeepSpeed file {path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise BadMachine(f"DeepSpeed file {path} is not a JSON object; write settings in {{ }}")
    return settings


def _is_neutral(key: str, value: Any) -> bool:
    if str(value).lower() in ("auto", "none", str(NEUTRAL_VALUES[key][0]).lower()):
        return True
    try:
        return float(value) == float(NEUTRAL_VALUES[key][0])
    except (TypeError, ValueError):
        return False


def _zero_settings(zero: DeepSpeedSettings, source: str) -> DeepSpeedSettings:
    stage = zero.get("stage", 2)
    if str(stage) not in ("1", "2", "3"):
        raise BadMachine(
            f"{source}: ZeRO stage {stage!r} is not 1, 2 or 3; to train without ZeRO, set"
            " distributed_type: MULTI_GPU"
        )
    if approximate_keys := [key for key in APPROXIMATE if zero.get(key)]:
        raise BadMachine(
            f"{source}: {approximate_keys[0]} changes the gradient for speed; remove it"
        )
    settings = dict(zero) | {"stage": int(stage)}
    if settings["stage"] == 3:
        # Otherwise DeepSpeed searches the rest of the step after each of many small modules, which
        # takes minutes with micro-batches.
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
