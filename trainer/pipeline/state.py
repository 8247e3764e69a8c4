"""What is on disk of a pipeline: which stages are done and why others are not, their records, and
the lock.

    <folder>/.lock                       held while a pipeline, or a stage of one that was killed,
    runs
    <folder>/<stage>/<key>/              what the stage made
    <folder>/<stage>/<key>.json, .log    written when it was done; what it said
    <folder>/<stage>/latest              a link to the folder last used

Nothing is deleted: what a stage left unfinished, and what is made anew with the same key, is moved
aside.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.errors import BadFolder
from trainer.pipeline.keys import Keyed, changes
from trainer.runtime.environment import redact_command, redact_tree
from trainer.runtime.run_folder import write_json
from trainer.storage.atomic import write_link
from trainer.storage.locks import FolderLock, lock_folder

_IN_USE = (
    "{folder} is in use by a pipeline: {holder}; wait for it, or stop it (a stage may outlive a"
    " pipeline that was killed), or choose another name=NAME"
)


def why_not_done(stage: Keyed, earlier: Mapping[str, Keyed]) -> str:
    """Why the stage must run; "" when it is done: its record is there, all its outputs are and of
    the size they had, and no stage it needs (they are in `earlier`) has run since.
    """
    record = _read(stage.record)
    if record is None:
        if stage.record.exists():
            return f"{stage.record} is damaged"
        before = _newest_record(stage)
        reasons = changes(before["made_with"], redact_tree(stage.made_with)) if before else []
        started = "it was begun and did not end" if stage.folder.exists() else "it has not run yet"
        return ", ".join(reasons) or started
    for output, path in stage.outputs.items():
        if not path.exists():
            return f"its output {output} is no longer at {path}"
        if record["outputs"].get(output, size_of(path)) != size_of(path):
            return f"its output {output} at {path} is not as the stage left it"
    anew = [
        name for name, ended in _ends(stage, earlier).items() if record["needed"].get(name) != ended
    ]
    return ", ".join(f"stage {name} is made anew" for name in anew)


def missing_outputs(stage: Keyed) -> dict[str, Path]:
    """The outputs that are not there."""
    return {name: path for name, path in stage.outputs.items() if not path.exists()}


def size_of(path: Path) -> dict[str, int]:
    """Number of files of an output and their bytes: enough to notice what is cut short, added to or
    deleted.
    """
    files = [each for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file()]
    return {"files": len(files), "bytes": sum(each.stat().st_size for each in files)}


def write_record(stage: Keyed, earlier: Mapping[str, Keyed], **details: Any) -> None:
    """Says on disk that the stage is done; from then on it is not repeated."""
    write_json(
        stage.record,
        {
            "stage": stage.name,
            "key": stage.key,
            "command": redact_command(stage.command),
            **details,
            "ended": datetime.now().astimezone().isoformat(timespec="microseconds"),
            "needed": _ends(stage, earlier),
            "outputs": {name: size_of(path) for name, path in stage.outputs.items()},
            "made_with": redact_tree(stage.made_with),
        },
    )


def make_folder(stage: Keyed, keep_unfinished: bool) -> None:
    """The stage's folder, empty: what is in it is moved to `<key>.replaced-<time>` or
    `<key>.unfinished-<time>`, unless the latter is to be kept.
    """
    if stage.record.exists():
        move_aside(stage, "replaced")
    elif not keep_unfinished and stage.folder.is_dir() and any(stage.folder.iterdir()):
        move_aside(stage, "unfinished")
    try:
        stage.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadFolder(
            f"cannot make {stage.folder}: {error.strerror}; choose another place with output=FOLDER"
        ) from error


def outdated(stage: Keyed, earlier: Mapping[str, Keyed]) -> bool:
    """Whether a stage it needs has been made anew since its command last said anything: what that
    left is of what is no longer there.
    """
    if not stage.log.exists():
        return False
    said = stage.log.stat().st_mtime_ns
    records = (earlier[name].record for name in stage.made_with["stages"])
    return any(record.exists() and record.stat().st_mtime_ns > said for record in records)


def move_aside(stage: Keyed, why: str) -> None:
    """Renames folder, log and record of the stage, the record first: without it nobody takes the
    rest for done.
    """
    aside = f"{stage.key}.{why}-{datetime.now():%Y%m%d-%H%M%S-%f}"
    for path, ending in ((stage.record, ".was.json"), (stage.folder, ""), (stage.log, ".log")):
        if path.exists():
            path.rename(path.with_name(aside + ending))


def point_latest(stage: Keyed) -> None:
    """Makes `latest` beside the stage's folder lead to it."""
    with contextlib.suppress(OSError):  # for the eye alone, and some file systems have no links
        write_link(stage.folder.with_name("latest"), stage.folder.name)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[FolderLock]:
    """Holds the pipeline's folder, which is made where there is none. Raises `BadFolder` that names
    the holder when another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(folder, _IN_USE)
    except OSError as error:
        raise BadFolder(
            f"cannot write to {folder}: {error.strerror}; choose another place with output=FOLDER"
        ) from error
    with lock:
        yield lock


def _ends(stage: Keyed, earlier: Mapping[str, Keyed]) -> dict[str, str | None]:
    """When each stage it needs was done, to the microsecond: made anew, even with the same key, it
    is another.
    """
    records = {name: _read(earlier[name].record) for name in stage.made_with["stages"]}
    return {
        name: None if record is None else str(record["ended"]) for name, record in records.items()
    }


def _newest_record(stage: Keyed) -> dict[str, Any] | None:
    """The record of this stage that was written last, under whatever key."""
    records = filter(None, map(_read, stage.folder.parent.glob("*[0-9a-f].json")))
    return max(records, key=lambda record: str(record["ended"]), default=None)


def _read(path: Path) -> dict[str, Any] | None:
    """A record; None where there is none or it is damaged."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = (
        isinstance(record, dict)
        and "ended" in record
        and all(isinstance(record.get(part), dict) for part in ("outputs", "needed", "made_with"))
    )
    return record if whole else None
