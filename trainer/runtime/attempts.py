"""`attempts.json` and `status.json` of a run: every start, and how the latest one ended."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.errors import OUT_OF_MEMORY
from trainer.storage.atomic import write_text
from trainer.storage.redaction import redact, redact_command

ATTEMPTS, STATUS = "attempts.json", "status.json"


def write_json(path: Path, value: Any) -> None:
    """Writes a small JSON file atomically, without secrets."""
    # A path of the command line that is not UTF-8 contains lone surrogates, which UTF-8 files
    # cannot contain.
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_text(path, redact(text).encode("utf-8", "replace").decode())


def add_attempt(folder: Path, command: Sequence[str]) -> None:
    """Adds the start of this process to the attempts of a run."""
    attempt = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "command": redact_command(command),
    }
    write_json(folder / ATTEMPTS, [*read_attempts(folder), attempt])


def update_attempt(folder: Path, details: dict[str, Any]) -> None:
    """Adds details to the latest attempt of a run."""
    *former, latest = read_attempts(folder) or [{}]
    write_json(folder / ATTEMPTS, [*former, {**latest, **details}])


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """Returns the attempts of a run, the first one first; none for an old or damaged folder."""
    attempts = _read_json(folder / ATTEMPTS)
    if not isinstance(attempts, list):
        return []
    return [attempt for attempt in attempts if isinstance(attempt, dict)]


def validation_limitation(attempts: Sequence[Mapping[str, Any]]) -> str:
    """Returns why the validation scores of a run are too high, as its latest attempt says; "" if
    they are not, or if no attempt says so.
    """
    limitations = (attempt.get("validation_limitation") for attempt in reversed(attempts))
    return next((text for text in limitations if isinstance(text, str)), "")


def read_status(folder: Path) -> dict[str, Any]:
    """Returns `status.json` of a run; empty while it goes on, or if it was killed."""
    return read_json_object(folder / STATUS)


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; empty if the file is missing or damaged."""
    content = _read_json(path)
    return content if isinstance(content, dict) else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None


def words_with_less_memory(
    words: Sequence[str], status: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]
) -> list[str] | None:
    """Returns the words of a command that continues a run with half the tokens in memory.

    `status` is that of the latest of the attempts. It is None if the run did not end for a lack of
    memory, or if the attempt before ended so too.
    """
    if status.get("reason") != OUT_OF_MEMORY:
        return None
    if len(attempts) > 1 and attempts[-2].get("reason") == OUT_OF_MEMORY:
        return None
    tokens = status[OUT_OF_MEMORY]
    verb, *arguments = [word for word in words if word not in ("--replace", "--resume")]
    return [
        *(verb, "--resume", *arguments),
        f"machine.micro_batch_tokens={max(1, tokens['micro_batch_tokens'] // 2)}",
        f"machine.kept_tokens={tokens['kept_tokens'] // 2}",
    ]


def describe_run(folder: Path) -> str:
    """Returns how the run in a folder ended, in words."""
    return {
        None: "a run that was killed before its end",
        "done": "a finished run",
        "stopped": "a run that was stopped",
        "preempted": "a run that was preempted",
        "failed": "a run that failed",
    }.get(read_status(folder).get("status"), "a run")


def has_run(folder: Path) -> bool:
    """Returns whether a folder contains a run that `--resume` can continue."""
    return (folder / "environment.json").is_file()
