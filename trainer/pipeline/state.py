"""The files of a pipeline: which stages are done and why others are not, their records, the lock.

    <folder>/.lock                  locked while a pipeline runs, or a stage of a killed pipeline
    <folder>/<stage>/<key>/         the outputs of the stage
    <folder>/<stage>/<key>.json     the record, written when the stage is done
    <folder>/<stage>/<key>.log      the output of the command
    <folder>/<stage>/latest         a link to the folder that was used last

Nothing is deleted. Unfinished outputs, and outputs that a stage with the same key replaces, are
moved aside.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.pipeline.keys import KeyedStage, changes
from trainer.runtime.attempts import write_json
from trainer.storage.atomic import write_link
from trainer.storage.locks import FolderLock, lock_folder
from trainer.storage.redaction import redact_command, redact_tree

_IN_USE = (
    "{folder} is in use by a pipeline: {holder}; wait for it, or stop it (a stage continues after"
    " its pipeline is killed), or choose another name=NAME"
)


def reason_to_run(stage: KeyedStage, earlier: Mapping[str, KeyedStage]) -> str:
    """Returns the reason why the stage must run, or "" if it is done.

    It is done if its record and all outputs exist, the outputs have their recorded sizes, and no
    stage that it needs has run since. `earlier` contains the stages that it needs.
    """
    record = _read(stage.record)
    if record is None:
        if stage.record.exists():
            return f"{stage.record} is damaged"
        newest = _newest_record(stage)
        reasons = changes(newest["made_with"], redact_tree(stage.dependencies)) if newest else []
        state = "it started and did not finish" if stage.folder.exists() else "it has not run yet"
        return ", ".join(reasons) or state
    for output, path in stage.outputs.items():
        if not path.exists():
            return f"its output {output} is no longer at {path}"
        if record["outputs"].get(output, size_of(path)) != size_of(path):
            return f"its output {output} at {path} has changed since the stage ended"
    repeated_stages = [
        name
        for name, end_time in _end_times(stage, earlier).items()
        if record["needed"].get(name) != end_time
    ]
    return ", ".join(f"stage {name} has run again" for name in repeated_stages)


def missing_outputs(stage: KeyedStage) -> dict[str, Path]:
    """Returns the outputs that do not exist."""
    return {name: path for name, path in stage.outputs.items() if not path.exists()}


def size_of(path: Path) -> dict[str, int]:
    """Returns the number of files of an output and their bytes.

    This is enough to notice that an output was cut off, extended or deleted.
    """
    files = [file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {"files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def write_record(stage: KeyedStage, earlier: Mapping[str, KeyedStage], **details: Any) -> None:
    """Writes the record of a stage that is done, so that it does not run again."""
    write_json(
        stage.record,
        {
            "stage": stage.name,
            "key": stage.key,
            "command": redact_command(stage.command),
            **details,
            "ended": datetime.now().astimezone().isoformat(timespec="microseconds"),
            "needed": _end_times(stage, earlier),
            "outputs": {name: size_of(path) for name, path in stage.outputs.items()},
            "made_with": redact_tree(stage.dependencies),
        },
    )


def make_folder(stage: KeyedStage, keep_unfinished: bool) -> None:
    """Makes the folder of a stage, empty unless unfinished outputs are kept.

    Former outputs are moved to `<key>.replaced-<time>` or `<key>.unfinished-<time>`.
    """
    if stage.record.exists():
        move_aside(stage, "replaced")
    elif not keep_unfinished and stage.folder.is_dir() and any(stage.folder.iterdir()):
        move_aside(stage, "unfinished")
    try:
        stage.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFolder(
            f"cannot create {stage.folder}: {error.strerror}; choose another folder with"
            " output=FOLDER"
        ) from error


def is_outdated(stage: KeyedStage, earlier: Mapping[str, KeyedStage]) -> bool:
    """Returns True if a stage that it needs has run again after the last output of its command.

    Its unfinished outputs then come from inputs that no longer exist.
    """
    if not stage.log.exists():
        return False
    last_output = stage.log.stat().st_mtime_ns
    records = (earlier[name].record for name in stage.dependencies["stages"])
    return any(record.exists() and record.stat().st_mtime_ns > last_output for record in records)


def move_aside(stage: KeyedStage, suffix: str) -> None:
    """Renames the record, folder and log of a stage.

    The record is first, because without it the stage does not count as done.
    """
    name = f"{stage.key}.{suffix}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    for path, ending in ((stage.record, ".was.json"), (stage.folder, ""), (stage.log, ".log")):
        if path.exists():
            path.rename(path.with_name(name + ending))


def point_latest(stage: KeyedStage) -> None:
    """Points the link `latest` beside the stage's folder to that folder."""
    with contextlib.suppress(OSError):  # the link is only for users; some file systems have none
        write_link(stage.folder.with_name("latest"), stage.folder.name)


@contextlib.contextmanager
def lock_pipeline(folder: Path) -> Iterator[FolderLock]:
    """Locks the folder of a pipeline, and creates it if necessary.

    Raises `BadFolder` that names the holder if another process has the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder, _IN_USE)
    except OSError as error:
        raise BadFolder(
            f"cannot write to {folder}: {error.strerror}; choose another folder with output=FOLDER"
        ) from error
    with lock:
        yield lock


def _end_times(stage: KeyedStage, earlier: Mapping[str, KeyedStage]) -> dict[str, str | None]:
    """Returns the end time of each stage that it needs, to the microsecond.

    A stage that has run again has another end time, even if it has the same key.
    """
    records = {name: _read(earlier[name].record) for name in stage.dependencies["stages"]}
    return {
        name: None if record is None else str(record["ended"]) for name, record in records.items()
    }


def _newest_record(stage: KeyedStage) -> dict[str, Any] | None:
    """Returns the newest record of this stage with any key."""
    records = filter(None, map(_read, stage.folder.parent.glob("*[0-9a-f].json")))
    return max(records, key=lambda record: str(record["ended"]), default=None)


def _read(path: Path) -> dict[str, Any] | None:
    """Returns a record, or None if it does not exist or is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_complete = (
        isinstance(record, dict)
        and "ended" in record
        and all(isinstance(record.get(part), dict) for part in ("outputs", "needed", "made_with"))
    )
    return record if is_complete else None
