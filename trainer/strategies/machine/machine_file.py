"""Reads a machine file, which is a configuration of Hugging Face accelerate, into a plan.

Imports no torch, so that a mistake is reported at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import BadMachine
from trainer.strategies.machine.deepspeed_settings import (
    DeepSpeedSettings,
    deepspeed_precision,
    deepspeed_settings,
)
from trainer.strategies.machine.plan import Device, HalfPrecision, Plan, StrategyKind

MachineFile = Mapping[str, Any]
"""The keys of an accelerate configuration. `use_cpu: None` means that the device is not known."""


def plan_from_file(path: Path) -> Plan:
    """Returns the plan of `accelerate launch --config_file path`. Starts nothing.

    If it names a DeepSpeed file, the path is relative to the current folder, as in accelerate.
    Raises BadMachine.
    """
    return make_plan(read_machine_file(path), str(path))


def read_machine_file(path: Path) -> MachineFile:
    """Reads the keys of a machine file. Raises BadMachine if it is not a machine file."""
    try:
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadMachine(
            f"machine file {path} cannot be read: {error}; launch/accelerate/ contains files to"
            " start from"
        ) from error
    except yaml.YAMLError as error:
        raise BadMachine(f"machine file {path} is not YAML: {str(error)[:300]}") from error
    if not isinstance(file, dict) or "distributed_type" not in file:
        raise BadMachine(
            f"{path} is not a machine file: it has no key `distributed_type`; launch/accelerate/"
            " contains files to start from"
        )
    return file


def make_plan(file: MachineFile, source: str) -> Plan:
    """Returns the plan of a machine file; `source` names the file in messages.

    Raises BadMachine for a setting that Nearfar does not support.
    """
    kind = (
        "NO" if file["distributed_type"] is False else str(file["distributed_type"]).upper()
    )  # YAML reads NO without quotes as false
    nodes = _count(file, "num_machines", source)
    ranks = _count_processes(file, nodes, source)
    if kind == "MULTI_CPU" or (kind == "NO" and ranks > 1):
        raise BadMachine(
            f"{source}: accelerate starts one process only for MULTI_CPU, NO and --cpu: it ignores"
            " num_processes, FSDP and DeepSpeed; for several processes on a CPU write"
            " distributed_type: MULTI_GPU (or FSDP, DEEPSPEED) with use_cpu: true and"
            " main_process_port: 0"
        )
    if kind not in ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED"):
        raise BadMachine(
            f"{source}: distributed_type {kind[:40]!r} is not supported; use NO, MULTI_GPU (DDP),"
            " FSDP or DEEPSPEED"
        )
    if ranks % nodes:
        raise BadMachine(
            f"{source}: {ranks} processes cannot be divided evenly among {nodes} nodes; set"
            " num_processes to a multiple of num_machines"
        )
    _refuse_other_sections(file, source)
    settings, reshard, replicas, half_precision = None, True, None, None
    strategy: StrategyKind = "single" if ranks == 1 else "ddp"
    if kind == "FSDP":
        strategy, reshard = "fsdp2", _fsdp2(file.get("fsdp_config") or {}, source)
        replicas = _replicas(file.get("parallelism_config") or {}, ranks, source)
    elif kind == "DEEPSPEED":
        section = file.get("deepspeed_config") or {}
        settings = deepspeed_settings(section, source)
        strategy, half_precision = _zero(settings), deepspeed_precision(section, source)
        _check_deepspeed_launcher(section, nodes, source)
    device = _device(kind, file)
    precision = _precision(file.get("mixed_precision"), half_precision, device, source)
    return Plan(
        strategy, ranks, nodes, ranks // nodes, precision, device, settings, reshard, replicas
    )


def _check_deepspeed_launcher(section: Mapping[str, Any], nodes: int, source: str) -> None:
    launcher = section.get("deepspeed_multinode_launcher", "standard")
    if nodes > 1 and launcher != "standard":
        raise BadMachine(
            f"{source}: deepspeed_multinode_launcher {launcher!r} is not supported, because each"
            " node is started by its own command; write standard"
        )


def _zero(settings: DeepSpeedSettings) -> StrategyKind:
    kinds: dict[int, StrategyKind] = {1: "zero1", 2: "zero2", 3: "zero3"}
    return kinds[settings["zero_optimization"]["stage"]]


def _count_processes(file: MachineFile, nodes: int, source: str) -> int:
    """Returns `num_processes`, where `auto` counts as in torchrun.

    It is the number of GPUs of this machine, or of its cores if it has no GPU, times `nodes`.
    """
    if file.get("num_processes") != "auto":
        return _count(file, "num_processes", source)
    import torch

    has_gpu = torch.accelerator.is_available()
    return nodes * (torch.accelerator.device_count() if has_gpu else torch._utils.cpu_count() or 1)


def _count(file: MachineFile, key: str, source: str) -> int:
    value = file.get(key)
    try:
        count = 1 if value is None else int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise BadMachine(
            f"{source}: {key} is {str(value)[:40]!r}; write an integer of at least"
            f" 1{', or auto' if key == 'num_processes' else ''}"
        )
    return count


def default_use_cpu(kind: str, file: MachineFile) -> bool | None:
    """Returns the value of `use_cpu` for a file without the key.

    Such a file is for GPUs, as in accelerate. It is for any device (None) if it has one process, or
    one process per device.
    """
    return None if kind == "NO" or file.get("num_processes") == "auto" else False


def _device(kind: str, file: MachineFile) -> Device | None:
    use_cpu = file.get("use_cpu", default_use_cpu(kind, file))
    if use_cpu is None:
        return None
    return "cpu" if use_cpu in (True, "true", "True") else "cuda"


def _precision(
    value: Any, deepspeed_precision_name: HalfPrecision | None, device: Device | None, source: str
) -> HalfPrecision | None:
    name = "no" if value in (None, False) else str(value).lower()
    if name not in ("no", "bf16", "fp16"):
        raise BadMachine(
            f"{source}: mixed_precision {name!r} is not supported; use bf16, fp16, or no, which"
            " means the recipe's machine.precision"
        )
    if deepspeed_precision_name is not None and name not in ("no", deepspeed_precision_name):
        raise BadMachine(
            f"{source}: mixed_precision is {name}, but its DeepSpeed settings enable"
            f" {deepspeed_precision_name}; use the same value in both"
        )
    precision: HalfPrecision | None = (
        deepspeed_precision_name if name == "no" else "bf16" if name == "bf16" else "fp16"
    )
    if precision == "fp16" and device == "cpu":
        raise BadMachine(f"{source}: mixed_precision fp16 needs a GPU; on a CPU use bf16 or no")
    return precision


def _fsdp2(section: Mapping[str, Any], source: str) -> bool:
    """Returns whether to reshard after the forward pass; refuses settings without support."""
    settings = {key.removeprefix("fsdp_"): str(value).lower() for key, value in section.items()}
    if settings.get("version", "1") != "2":
        raise BadMachine(
            f"{source}: FSDP version {settings.get('version', '1')} is not supported; set"
            " fsdp_version: 2 in fsdp_config"
        )
    if settings.get("offload_params", "false") == "true":
        raise BadMachine(
            f"{source}: fsdp_offload_params is not supported; for weights in CPU memory use a"
            " DeepSpeed ZeRO-3 file with offload"
        )
    if settings.get("activation_checkpointing", "false") == "true":
        raise BadMachine(
            f"{source}: fsdp_activation_checkpointing is a setting of the recipe; set it to false,"
            " and set model.activation_checkpointing=true"
        )
    reshard = settings.get("reshard_after_forward", "true")
    # If the key is absent, accelerate exports full_shard, the default of version 1.
    if reshard not in ("true", "false", "full_shard"):
        raise BadMachine(f"{source}: fsdp_reshard_after_forward {reshard!r} must be true or false")
    return reshard != "false"


def _replicas(section: Mapping[str, Any], ranks: int, source: str) -> int | None:
    """Returns the number of copies of the weights; None without the section.

    As in accelerate, a size that is missing is 1. Only that of the shards may be left out.
    """
    sizes = {key.removeprefix("parallelism_config_"): value for key, value in section.items()}
    replicate, shard = "dp_replicate_size", "dp_shard_size"
    for name in sizes.keys() - {replicate, shard}:
        if name.endswith("_size") and str(sizes[name]) != "1":
            raise BadMachine(
                f"{source}: parallelism_config_{name} is not supported, as every rank has a part of"
                f" the batch of its own; remove it. Supported: {replicate} and {shard}"
            )
    if not sizes:
        return None
    replicas, shards = _count(sizes, replicate, source), _count(sizes, shard, source)
    if ranks % replicas or shards not in (1, ranks // replicas):
        raise BadMachine(
            f"{source}: parallelism_config asks for {replicas} copies of the weights, each shared"
            f" by {shards} processes, but there are {ranks} processes; write sizes whose product"
            f" is {ranks}, or remove the section, which means one copy per node"
        )
    return replicas


def _refuse_other_sections(file: MachineFile, source: str) -> None:
    dynamo = (file.get("dynamo_config") or {}).get("dynamo_backend", "no")
    names = ["megatron_lm_config", "fp8_config", "mpirun_config"]
    if str(file["distributed_type"]).upper() != "FSDP":
        names.append("parallelism_config")
    unsupported_sections = [name for name in names if file.get(name)]
    if str(dynamo).lower() != "no":
        unsupported_sections.append("dynamo_config")
    if unsupported_sections:
        raise BadMachine(
            f"{source}: {unsupported_sections[0]} is not supported; remove that section"
        )
