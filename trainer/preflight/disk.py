"""Checks the disk space that a run needs."""

import shutil
from pathlib import Path

from torch import nn

from trainer.build.data import DataSets
from trainer.build.data_facts.lengths import Lengths
from trainer.build.refresh import written_bytes as refresh_bytes
from trainer.errors import NearfarError
from trainer.models.encoder import Encoder
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun
from trainer.preflight.sizes import format_bytes
from trainer.strategies.machine.nodes import existing_ancestor

BESIDES_WEIGHTS = 100 * 2**20
"""Bytes for tokenizer, log, report and the files of trackers."""


def check_disk(findings: Findings, run: PlannedRun, encoder: Encoder, other_bytes: int) -> None:
    """Adds a finding about the disk space for the run folder.

    `other_bytes` are written in addition to model and checkpoints.
    """
    folder = Path(run.recipe.output) / run.recipe.name
    kept_checkpoints = run.recipe.checkpoints.keep_last
    amount = model_bytes(encoder, kept_checkpoints) + other_bytes
    free = free_bytes(folder)
    text = f"the run writes up to {format_bytes(amount)}"
    if amount <= free:
        findings.add("ok", "disk", f"{text}; {format_bytes(free)} are free")
    else:
        findings.add(
            "wrong",
            "disk",
            f"{text}, but only {format_bytes(free)} are free for {folder}; choose another folder"
            " with output=FOLDER",
        )


def mining_bytes(
    run: PlannedRun,
    data: DataSets | None,
    encoder: Encoder,
    lengths: tuple[Lengths, Lengths] | None,
) -> int:
    """Returns the bytes that mining between steps writes to the disk."""
    if data is None or lengths is None:
        return 0
    try:
        return refresh_bytes(run.recipe, data.train, encoder, lengths[1].mean_tokens)
    except NearfarError:  # the findings about the data report it
        return 0


def model_bytes(encoder: nn.Module, kept_checkpoints: int) -> int:
    """Returns the bytes of all files of weights.

    These are the model in float32, an adapter, the checkpoints with two moments per weight and one
    that is being written, and for each of them and before training the best weights.
    """
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    trained_weights = sum(
        parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
    )
    checkpoints = kept_checkpoints + 1
    return 4 * (weights + (3 * checkpoints + checkpoints + 2) * trained_weights) + BESIDES_WEIGHTS


def free_bytes(path: Path) -> int:
    """Returns the free bytes for this user on the disk of `path`, which need not exist."""
    return shutil.disk_usage(existing_ancestor(path)).free
