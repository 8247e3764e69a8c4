"""Describes the environment of a run without secrets: machine, versions, git state, command line.

Environment variables are never written to a file. They are only read to find the secrets that must
not appear.
"""

import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
REDACTION = "***"

_SENSITIVE = r"(?:token|secret|password|passwd|passphrase|pwd|api[_-]?key|access[_-]?key|private[_-]?key|secret[_-]?key|authorization|credentials?|sig|signature)"  # noqa: E501 - one pattern
_SECRET_NAME = re.compile(rf"(?:^|[._\-])\W*{_SENSITIVE}$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|KEY$|_PAT$|_PWD$", re.IGNORECASE
)
_ASSIGNMENT = re.compile(
    rf"((?:^|(?<=[\s?&;,{{\"'._\-])){_SENSITIVE}[\"']?\s*[=:]\s*[\"']?)([^\s\"'&;,}}]+)",
    re.IGNORECASE | re.MULTILINE,
)
_USER_IN_URL = re.compile(r"(?<=://)[^\s/@\"']+(?=@)")
_KNOWN_FORM = re.compile(
    r"\b(?:(?:Bearer|Basic)\s+[\w.~+/=-]{8,}|hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
)
_SHORTEST_SECRET = 6
"""Shorter values of secret variables are not searched for, because values such as `1` or `yes`
occur everywhere.
"""


def redact(text: str) -> str:
    """Returns `text` with secrets replaced by `***`.

    Secrets are users in URLs, values of keys named like secrets, tokens of well-known forms, and
    secret environment variables.

    >>> redact("data.train=https://me:pass@host/pairs.jsonl --token=abc optimization.batch_size=64")
    'data.train=https://***@host/pairs.jsonl --token=*** optimization.batch_size=64'
    >>> redact("micro_batch_tokens: 4096, pooling: last_token")
    'micro_batch_tokens: 4096, pooling: last_token'
    """
    secrets = {
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTION)
    text = _KNOWN_FORM.sub(REDACTION, _USER_IN_URL.sub(REDACTION, text))
    return _ASSIGNMENT.sub(rf"\1{REDACTION}", text)


def redact_tree(value: Any) -> Any:
    """Redacts nested dicts and lists: all strings, and all values of keys named like secrets.

    >>> redact_tree({"token": "abc", "data": ["ftp://me:pass@host/x"], "rank": 32})
    {'token': '***', 'data': ['ftp://***@host/x'], 'rank': 32}
    """
    if isinstance(value, dict):
        return {
            key: (
                REDACTION
                if _SECRET_NAME.search(str(key)) and inner is not None
                else redact_tree(inner)
            )
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_tree(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def redact_command(command: Sequence[str]) -> str:
    """Returns a command line that can be typed again, without its secrets.

    >>> redact_command(["nearfar", "fit", "a recipe.yaml", "--token", "abc", "seed=1"])
    "nearfar fit 'a recipe.yaml' --token *** seed=1"
    """
    words: list[str] = []
    for number, word in enumerate(command):
        follows_secret = (
            number > 0
            and command[number - 1].startswith("-")
            and _SECRET_NAME.search(command[number - 1])
        )
        clean = REDACTION if follows_secret else redact(word)
        words.append(clean if REDACTION in clean else shlex.quote(clean))
    return " ".join(words)


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
