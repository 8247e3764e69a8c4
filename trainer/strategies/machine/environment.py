"""The plan of this process, from the variables that its launcher exported. Imports no torch.

The variables of `accelerate launch` are converted into the keys of a machine file. So a machine
file and the processes that were started with it have the same plan.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.strategies.machine.machine_file import (
    MachineFile,
    default_use_cpu,
    make_plan,
    read_machine_file,
)
from trainer.strategies.machine.own_rank import srun_counts
from trainer.strategies.machine.plan import Plan


def plan_from_environment(environ: Mapping[str, str]) -> Plan:
    """Returns the plan from the variables of `accelerate launch`, torchrun or srun.

    It is SINGLE if the process was started without a launcher. Raises BadMachine.
    """
    file, source = _as_machine_file(environ)
    return make_plan(file, source)


def _as_machine_file(environ: Mapping[str, str]) -> tuple[MachineFile, str]:
    """Converts the variables into the keys of a machine file; also returns their source."""
    ranks, nodes = _counts(environ)
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environ
    kind = next(
        (
            name
            for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM")
            if environ.get(f"ACCELERATE_USE_{name}") == "true"
        ),
        "MULTI_GPU" if ranks > 1 else "NO",
    )
    if by_accelerate and "WORLD_SIZE" not in environ and "MASTER_PORT" in environ:
        # For several processes on a CPU, accelerate starts only one and exports a port.
        kind = "MULTI_CPU"
    file: dict[str, Any] = {
        "distributed_type": kind,
        "num_processes": ranks,
        "num_machines": nodes,
        "mixed_precision": environ.get("ACCELERATE_MIXED_PRECISION"),
        "use_cpu": True if environ.get("ACCELERATE_USE_CPU") == "True" else None,
        "dynamo_config": {"dynamo_backend": environ.get("ACCELERATE_DYNAMO_BACKEND", "no")},
        "parallelism_config": _lower(environ, "PARALLELISM_CONFIG_"),
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
    if (launcher_file := _file_of_launcher()) is not None:
        keys = read_machine_file(launcher_file)
        file["use_cpu"] = keys.get("use_cpu", default_use_cpu(kind, keys))
        return file, str(launcher_file)
    return file, "accelerate launch"


def _lower(environ: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Returns the variables with a prefix, in lower case and without the prefix."""
    return {
        key.removeprefix(prefix).lower(): value
        for key, value in environ.items()
        if key.startswith(prefix)
    }


def _counts(environ: Mapping[str, str]) -> tuple[int, int]:
    """Returns the numbers of ranks and nodes.

    They come from torchrun's variables, or from srun's if srun starts the ranks. Otherwise they
    are one.
    """
    if "WORLD_SIZE" in environ:
        ranks = int(environ["WORLD_SIZE"])
        return ranks, max(1, ranks // int(environ.get("LOCAL_WORLD_SIZE", ranks)))
    if "SLURM_STEP_NUM_TASKS" in environ and "ACCELERATE_MIXED_PRECISION" not in environ:
        return srun_counts(environ)
    return 1, 1


def _file_of_launcher() -> Path | None:
    """Returns the `--config_file` on the command line of the launcher that started this process.

    accelerate does not export whether a file is for CPUs or GPUs, so its command line is the only
    source. Returns None if it cannot be read.
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
