"""Prepares the folder of checkpoints, and chooses the one that a run continues from."""

import json
from collections.abc import Mapping

from trainer.build.identity import VERSION, identity_changes
from trainer.checkpoints.folder import Checkpoint, CheckpointFolder
from trainer.collectives import integers_of_first_rank
from trainer.errors import BadCheckpoint, BadFolder
from trainer.runtime.attempts import write_json
from trainer.runtime.console import say
from trainer.runtime.log_file import cut_log
from trainer.runtime.run_folder import RunFolder
from trainer.tracking.course import keep_course

_MOST_LINES = 12
"""Differences that a message lists."""
_NO_CHECKPOINT = -1


def checkpoint_to_continue(
    checkpoints: CheckpointFolder,
    identity: Mapping[str, str],
    folder: RunFolder,
    accept_changes: bool = False,
) -> Checkpoint | None:
    """Returns the newest checkpoint that is whole, or None if the run has none.

    The log is cut off where that checkpoint was written. All ranks must call it. Raises
    BadCheckpoint if the run was made of something else, unless `accept_changes`, and if no
    checkpoint is whole. Raises BadFolder if no checkpoint could be written.
    """
    (step,) = integers_of_first_rank(
        lambda: [_prepare(checkpoints, identity, folder, accept_changes)]
    )
    return None if step == _NO_CHECKPOINT else checkpoints.at(step)


def _prepare(
    checkpoints: CheckpointFolder,
    identity: Mapping[str, str],
    folder: RunFolder,
    accept_changes: bool,
) -> int:
    """Does the work of the first rank. Returns the step of the checkpoint, or -1."""
    _check_identity(identity, folder, accept_changes)
    _check_writable(checkpoints)
    checkpoint, damages = checkpoints.newest_valid()
    for damage in damages:
        say(f"warning: a checkpoint is skipped: {damage}")
    keep_course(folder.path, checkpoint.step if checkpoint is not None else 0)
    if checkpoint is None:
        cut_log(folder.log_path, 0)
        if len(folder.attempts) > 1:
            say("there is no checkpoint yet, so the run starts from the beginning")
        return _NO_CHECKPOINT
    cut_log(folder.log_path, int(checkpoint.state["log_bytes"]))
    folder.note(from_step=checkpoint.step)
    say(f"continuing after step {checkpoint.step:,}, from {checkpoint.path}")
    return checkpoint.step


def _check_identity(identity: Mapping[str, str], folder: RunFolder, accept_changes: bool) -> None:
    path = folder.identity_path
    former = json.loads(path.read_text(encoding="utf-8")) if path.exists() else identity
    differences = identity_changes(former, identity)
    conflicts = [line for line in differences if not line.startswith(VERSION)]
    if conflicts and not accept_changes:
        lines = "\n".join(f"  {line}" for line in conflicts[:_MOST_LINES])
        if (rest := len(conflicts) - _MOST_LINES) > 0:
            lines += f"\n  and {rest} more"
        raise BadCheckpoint(
            f"{folder.path} cannot be continued, because it was made of something else:\n{lines}"
            f"\nundo the change, pass --accept-changes to continue all the same, or start"
            " again with --replace"
        )
    if differences:
        say("warning: continuing with changes: " + "; ".join(differences[:_MOST_LINES]))
    if conflicts:
        folder.note(accepted_changes=differences)
        folder.baselines_path.unlink(missing_ok=True)
    write_json(path, dict(identity))


def _check_writable(checkpoints: CheckpointFolder) -> None:
    probe = checkpoints.path / ".probe"
    try:
        checkpoints.path.mkdir(exist_ok=True)
        checkpoints.remove_partial()
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        raise BadFolder(
            f"checkpoints cannot be written to {checkpoints.path}: {error.strerror}; make it"
            " writable, or choose another folder with output=FOLDER"
        ) from error
