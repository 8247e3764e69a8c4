"""What a launcher or a machine file says about where a run runs, as one plain record. Imports no
torch: a mistake is answered at once.

A machine file is a configuration of Hugging Face accelerate. What `accelerate launch` exports to
its processes is first brought back into the form of that file; so both are read by the same lines
and give the same plan.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from trainer.errors import BadMachine
from trainer.strategies.deepspeed_settings import (
    DeepSpeedSettings,
    deepspeed_precision,
    deepspeed_settings,
)

Kind = Literal["single", "ddp", "fsdp2", "zero1", "zero2", "zero3"]
Precision = Literal["bf16", "fp16"]
Device = Literal["cpu", "cuda"]
MachineFile = Mapping[str, Any]
"""The keys of an accelerate configuration. `use_cpu: None` stands for a launcher that does not
tell.
"""


@dataclass(frozen=True)
class Plan:
    """How many processes share a run, and how they share its weights and gradients."""

    kind: Kind
    ranks: int
    nodes: int
    ranks_per_node: int
    precision: Precision | None = None
    """None: the machine file leaves it to the recipe. accelerate does not tell `no` from
    nothing.
    """
    accelerator: Device | None = None
    """None: the machine file leaves it to the recipe, or there is none."""
    deepspeed: DeepSpeedSettings | None = None
    reshard_after_forward: bool = True
    """FSDP2: whether gathered weights are given back between forward and backward."""


SINGLE = Plan("single", 1, 1, 1)


def plan_from_environment(environ: Mapping[str, str]) -> Plan:
    """The plan of this process, from what `accelerate launch`, torchrun or srun exported; SINGLE
    for a plain start. Raises BadMachine.
    """
    file, source = _as_machine_file(environ)
    return _plan(file, source)


def plan_from_file(path: Path) -> Plan:
    """The plan that `accelerate launch --config_file path` leads to, nothing started. Raises
    BadMachine.

    A DeepSpeed file that it names is looked for from the current folder, as accelerate does.
    """
    return _plan(_read(path), str(path))


def check_here(plan: Plan) -> None:
    """Raises BadMachine when this machine lacks what the plan needs: GPUs, or the package
    deepspeed.
    """
    if plan.deepspeed is not None:
        from importlib.util import find_spec

        if find_spec("deepspeed") is None:
            raise BadMachine(
                f"the machine file asks for DeepSpeed ({plan.kind}), which is not installed; "
                "pip install 'nearfar[deepspeed]', or take a machine file for FSDP2 or DDP"
            )
    if plan.accelerator == "cuda":
        import torch

        there = torch.cuda.device_count()
        if there < plan.ranks_per_node:
            raise BadMachine(
                f"the machine file is for {plan.ranks_per_node} GPUs a node (use_cpu: false), but"
                f" PyTorch finds {there or 'none'} here; take a file with use_cpu: true, such as"
                " launch/accelerate/cpu-2-ddp.yaml, or fewer processes"
            )


# ---------------------------------------------------------------- the two sources, in one form


def _read(path: Path) -> MachineFile:
    try:
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadMachine(
            f"machine file {path} cannot be read: {error}; launch/accelerate/ holds files to start"
            " from"
        ) from error
    except yaml.YAMLError as error:
        raise BadMachine(f"machine file {path} is not YAML: {str(error)[:300]}") from error
    if not isinstance(file, dict) or "distributed_type" not in file:
        raise BadMachine(
            f"{path} is no machine file: it has no key `distributed_type`; launch/accelerate/ holds"
            " files to start from"
        )
    return file


def _as_machine_file(environ: Mapping[str, str]) -> tuple[MachineFile, str]:
    """What the environment says in the words of a machine file, and who said it."""
    ranks, nodes = _counts(environ)
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environ
    use = {"DEEPSPEED": "DEEPSPEED", "FSDP": "FSDP", "MEGATRON_LM": "MEGATRON_LM"}
    kind = next(
        (name for name, key in use.items() if environ.get(f"ACCELERATE_USE_{key}") == "true"),
        "MULTI_GPU" if ranks > 1 else "NO",
    )
    if by_accelerate and "WORLD_SIZE" not in environ and "MASTER_PORT" in environ:
        kind = (  # what is left of several processes on a CPU: one, and an address to meet at
            "MULTI_CPU"
        )
    file: dict[str, Any] = {
        "distributed_type": kind,
        "num_processes": ranks,
        "num_machines": nodes,
        "mixed_precision": environ.get("ACCELERATE_MIXED_PRECISION"),
        "use_cpu": True if environ.get("ACCELERATE_USE_CPU") == "True" else None,
        "dynamo_config": {"dynamo_backend": environ.get("ACCELERATE_DYNAMO_BACKEND", "no")},
        "parallelism_config": (
            {"used": True} if environ.get("ACCELERATE_USE_PARALLELISM_CONFIG") == "true" else {}
        ),
        "deepspeed_config": (
            _lower(environ, "ACCELERATE_DEEPSPEED_")
            | {
                key.lower(): environ[f"ACCELERATE_{key}"]
                for key in ("GRADIENT_ACCUMULATION_STEPS", "GRADIENT_CLIPPING")
                if f"ACCELERATE_{key}" in environ
            }
        ),
        "fsdp_config": _lower(environ, "FSDP_"),
    }
    if not by_accelerate:
        return file, "the launcher" if ranks > 1 else "the environment"
    if (launched_with := _file_of_launcher()) is not None:
        said = _read(launched_with)
        file["use_cpu"] = said.get("use_cpu", _use_cpu_unsaid(kind, said))
        return file, str(launched_with)
    return file, "accelerate launch"


def _lower(environ: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {
        key.removeprefix(prefix).lower(): value
        for key, value in environ.items()
        if key.startswith(prefix)
    }


def _counts(environ: Mapping[str, str]) -> tuple[int, int]:
    """(ranks, nodes) by torchrun's variables, else by srun's where srun starts the ranks itself,
    else one.
    """
    if "WORLD_SIZE" in environ:
        ranks = int(environ["WORLD_SIZE"])
        return ranks, max(1, ranks // int(environ.get("LOCAL_WORLD_SIZE", ranks)))
    if "SLURM_STEP_NUM_TASKS" in environ and "ACCELERATE_MIXED_PRECISION" not in environ:
        return int(environ["SLURM_STEP_NUM_TASKS"]), int(environ.get("SLURM_STEP_NUM_NODES", "1"))
    return 1, 1


def _file_of_launcher() -> Path | None:
    """The `--config_file` on the command line of the launcher that started this process.

    accelerate does not export whether a file is for CPUs or GPUs; its command line is the one place
    left to see it. None if it cannot be seen.
    """
    import psutil

    try:
        launcher = psutil.Process(os.getppid())
        words, folder = launcher.cmdline(), Path(launcher.cwd())
    except (psutil.Error, OSError):
        return None
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in ("--config_file", "--config-file"):
            file = folder / (value if equals else words[place + 1])
            return file if file.is_file() else None
    return None


# ---------------------------------------------------------------- one reading of both


def _plan(file: MachineFile, source: str) -> Plan:
    kind = (
        "NO" if file["distributed_type"] is False else str(file["distributed_type"]).upper()
    )  # YAML reads a bare NO as false
    nodes = _count(file, "num_machines", source)
    ranks = (
        processes_here() * nodes
        if file.get("num_processes") == "auto"
        else _count(file, "num_processes", source)
    )
    if kind == "MULTI_CPU" or (kind == "NO" and ranks > 1):
        raise BadMachine(
            f"{source}: accelerate starts one process only for MULTI_CPU, NO and --cpu, whatever"
            " num_processes says, and drops FSDP and DeepSpeed; for several processes on a CPU"
            " write distributed_type: MULTI_GPU (or FSDP, DEEPSPEED) with use_cpu: true and"
            " main_process_port: 0"
        )
    if kind not in ("NO", "MULTI_GPU", "FSDP", "DEEPSPEED"):
        raise BadMachine(
            f"{source}: distributed_type {kind[:40]!r} is not one that Nearfar knows; use NO,"
            " MULTI_GPU (DDP), FSDP or DEEPSPEED"
        )
    if ranks % nodes:
        raise BadMachine(
            f"{source}: {ranks} processes cannot be shared evenly by {nodes} nodes; set"
            " num_processes to a multiple of num_machines"
        )
    _refuse_other_sections(file, source)
    settings, resharded, wanted = None, True, None
    shared: Kind = "single" if ranks == 1 else "ddp"
    if kind == "FSDP":
        shared, resharded = "fsdp2", _fsdp2(file.get("fsdp_config") or {}, source)
    elif kind == "DEEPSPEED":
        section = file.get("deepspeed_config") or {}
        settings = deepspeed_settings(section, source)
        shared, wanted = _zero(settings), deepspeed_precision(section, source)
        launcher = section.get("deepspeed_multinode_launcher", "standard")
        if nodes > 1 and launcher != "standard":
            raise BadMachine(
                f"{source}: deepspeed_multinode_launcher {launcher!r}: nodes are started one by"
                " one; write standard"
            )
    device = _device(kind, file)
    precision = _precision(file.get("mixed_precision"), wanted, device, source)
    return Plan(shared, ranks, nodes, ranks // nodes, precision, device, settings, resharded)


def _zero(settings: DeepSpeedSettings) -> Kind:
    kinds: dict[int, Kind] = {1: "zero1", 2: "zero2", 3: "zero3"}
    return kinds[settings["zero_optimization"]["stage"]]


def processes_here() -> int:
    """What torchrun makes of `auto`, which accelerate hands on to it: the GPUs of this machine, or
    its cores where there is none.
    """
    import torch

    return (
        torch.accelerator.device_count()
        if torch.accelerator.is_available()
        else torch._utils.cpu_count() or 1
    )


def _count(file: MachineFile, key: str, source: str) -> int:
    said = file.get(key)
    try:
        count = 1 if said is None else int(said)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise BadMachine(
            f"{source}: {key} is {str(said)[:40]!r}; write a number from 1"
            f" on{', or auto' if key == 'num_processes' else ''}"
        )
    return count


def _use_cpu_unsaid(kind: str, file: MachineFile) -> bool | None:
    """A file without the key is for GPUs, as accelerate has it, unless it takes any machine: one
    process, or as many as there are devices.
    """
    return None if kind == "NO" or file.get("num_processes") == "auto" else False


def _device(kind: str, file: MachineFile) -> Device | None:
    said = file.get("use_cpu", _use_cpu_unsaid(kind, file))
    if said is None:
        return None
    return "cpu" if said in (True, "true", "True") else "cuda"


def _precision(
    said: Any, wanted: Precision | None, device: Device | None, source: str
) -> Precision | None:
    name = "no" if said in (None, False) else str(said).lower()
    if name not in ("no", "bf16", "fp16"):
        raise BadMachine(
            f"{source}: mixed_precision {name!r} is not supported; use bf16, fp16, or no, which"
            " leaves it to the recipe's machine.precision"
        )
    if wanted is not None and name not in ("no", wanted):
        raise BadMachine(
            f"{source}: mixed_precision is {name}, but its DeepSpeed settings enable {wanted}; let"
            " both say the same"
        )
    precision: Precision | None = wanted if name == "no" else "bf16" if name == "bf16" else "fp16"
    if precision == "fp16" and device == "cpu":
        raise BadMachine(f"{source}: mixed_precision fp16 needs a GPU; on a CPU use bf16 or no")
    return precision


def _fsdp2(section: Mapping[str, Any], source: str) -> bool:
    """Whether to reshard after the forward pass; refuses what FSDP2 here does not do."""
    settings = {key.removeprefix("fsdp_"): str(value).lower() for key, value in section.items()}
    if settings.get("version", "1") != "2":
        raise BadMachine(
            f"{source}: FSDP version {settings.get('version', '1')} is not supported; set"
            " fsdp_version: 2 in fsdp_config"
        )
    if settings.get("offload_params", "false") == "true":
        raise BadMachine(
            f"{source}: fsdp_offload_params is not supported; for weights in CPU memory take a"
            " DeepSpeed ZeRO-3 file with offload"
        )
    if settings.get("activation_checkpointing", "false") == "true":
        raise BadMachine(
            f"{source}: fsdp_activation_checkpointing is the recipe's business; set it to false,"
            " and model.activation_checkpointing=true"
        )
    reshard = settings.get("reshard_after_forward", "true")
    if reshard not in (
        "true",
        "false",
        "full_shard",
    ):  # accelerate's word for an absent key is that of version 1
        raise BadMachine(f"{source}: fsdp_reshard_after_forward {reshard!r} must be true or false")
    return reshard != "false"


def _refuse_other_sections(file: MachineFile, source: str) -> None:
    dynamo = (file.get("dynamo_config") or {}).get("dynamo_backend", "no")
    found = [
        name
        for name in ("megatron_lm_config", "parallelism_config", "fp8_config", "mpirun_config")
        if file.get(name)
    ]
    if str(dynamo).lower() != "no":
        found.append("dynamo_config")
    if found:
        raise BadMachine(f"{source}: {found[0]} is not supported; remove that section")
