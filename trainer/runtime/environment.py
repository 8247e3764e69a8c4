"""Describes the environment of a run without secrets: machine, versions, git state, command line.

Environment variables are never written to a file.
"""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trainer.storage.redaction import redact_command

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "peft",
    "datasets",
    "safetensors",
    "sentence-transformers",
    "numpy",
    "faiss-cpu",
    "bm25s",
    "pydantic",
    "wandb",
    "tensorboard",
    "bitsandbytes",
)


def describe_environment(command: Sequence[str]) -> dict[str, Any]:
    """Returns the content of `environment.json`: start time, command, host, versions, processor,
    memory in bytes, GPUs and git state.
    """
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": redact_command(command),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "packages": _package_versions(),
        "processor": _processor(),
        "cores": (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "memory_bytes": _memory_bytes(),
        "gpus": _gpus(),
        "git": _git_state(Path.cwd()),
    }


def _package_versions() -> dict[str, str]:
    versions: dict[str, str] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Returns the commit and the number of changed files, or None outside a repository.

    Runs no hook and takes no lock.
    """
    git = ["git", "-c", "core.fsmonitor=false", "-C", str(folder)]
    try:
        answers = [
            subprocess.run(
                [*git, *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            ).stdout
            for arguments in (
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": answers[0].strip(), "changed_files": len(answers[1].splitlines())}
