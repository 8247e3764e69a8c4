"""Runs the stages that are not done, one after the other, and writes down each that ended well."""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from trainer.errors import BadPipeline, Interrupted, StageFailed
from trainer.pipeline.file import Pipeline
from trainer.pipeline.graph import needs, order
from trainer.pipeline.keys import Keyed, all_keyed, changes, keyed
from trainer.pipeline.process import Relay, last_lines, run
from trainer.pipeline.state import (
    held,
    make_folder,
    missing_outputs,
    move_aside,
    outdated,
    point_latest,
    why_not_done,
    write_record,
)
from trainer.recipe.nearest import nearest, question
from trainer.runtime.environment import redact_command
from trainer.storage.locks import FolderLock

CONTINUE = {("mine",), ("data", "prepare")}
"""Commands that go on where they were stopped when given the folder they left; the others begin
with an empty one.
"""


@dataclass(frozen=True)
class Step:
    """A stage, and why it is to run; "" when it is done."""

    stage: Keyed
    reason: str


def plan(pipeline: Pipeline, start: str | None = None) -> list[Step]:
    """All stages in the order in which they run; `start` and all that depend on it run though they
    are done. Raises `BadPipeline`, `BadRecipe`.
    """
    stages = all_keyed(pipeline, order(pipeline))
    again = behind(pipeline, start) if start is not None else set()
    reasons: dict[str, str] = {}
    for name, stage in stages.items():
        anew = (
            "asked for" if name == start else f"stage {start} is made anew" if name in again else ""
        )
        waits = ", ".join(
            f"stage {other} is to run" for other in needs(pipeline, name) if reasons[other]
        )
        reasons[name] = why_not_done(stage, stages) or anew or waits
    return [Step(stage, reasons[name]) for name, stage in stages.items()]


def behind(pipeline: Pipeline, start: str) -> set[str]:
    """A stage and all that depend on it."""
    check_stage(pipeline, start)
    found = {start}
    for name in order(pipeline):
        if found & set(needs(pipeline, name)):
            found.add(name)
    return found


def check_stage(pipeline: Pipeline, name: str) -> None:
    """Raises `BadPipeline` with the nearest name when there is no such stage."""
    if name not in pipeline.stages:
        near = (
            question(nearest(name, pipeline.stages)) or f"; there are {', '.join(pipeline.stages)}"
        )
        raise BadPipeline(f"there is no stage {name}{near}")


def run_all(pipeline: Pipeline, only: str | None = None, start: str | None = None) -> list[Keyed]:
    """Runs what is not done, and returns the stages; `only` runs that stage alone, `start` anew
    with all that depend on it.

    Raises `BadFolder` when another process runs it, `StageFailed` with the exit code of the stage,
    `BadPipeline` when a stage ended well and an output is missing, `Interrupted` on Ctrl-C.
    Whatever ends it, the same call goes on from the first stage that was not done.
    """
    names = order(pipeline)
    with held(pipeline.folder) as lock, Relay() as relay:
        if start is not None:
            check_stage(pipeline, start)
            move_aside(
                all_keyed(pipeline, names)[start], "replaced"
            )  # those behind it see that it was made anew
        found: dict[str, Keyed] = {}
        for number, name in enumerate(names, 1):
            # With its key as of now: earlier stages may have run for hours, in which a recipe was
            # edited.
            stage = found[name] = keyed(pipeline, name, found)
            reason = why_not_done(stage, found)
            _check_not_stopped(relay, name)
            if not reason:
                point_latest(stage)
                _say(f"[{number}/{len(names)}] {name}: done before")
            elif only in (None, name):
                _say(
                    f"[{number}/{len(names)}] {name}: to run: {reason}\n$"
                    f" {redact_command(stage.command)}"
                )
                _run_stage(pipeline, stage, found, lock, relay)
            elif only in behind(pipeline, name):
                raise BadPipeline(
                    f"stage {only} needs stage {name}, which is to run first: {reason}"
                )
    return list(found.values())


def accept(pipeline: Pipeline, name: str) -> Keyed:
    """Writes down as done a stage whose command was run by hand; raises `BadPipeline` when an
    output is missing.
    """
    check_stage(pipeline, name)
    with held(pipeline.folder):
        stages = {step.stage.name: step for step in plan(pipeline)}
        stage = stages[name].stage
        for other in needs(pipeline, name):
            if stages[other].reason:
                raise BadPipeline(
                    f"stage {name} needs stage {other}, which is not done: {stages[other].reason}"
                )
        _check_outputs(stage)
        if stages[name].reason:
            stage.folder.mkdir(parents=True, exist_ok=True)
            write_record(stage, {other: step.stage for other, step in stages.items()}, by_hand=True)
        point_latest(stage)
    return stage


def by_hand(steps: Sequence[Step], this_pipeline: Sequence[str]) -> list[str]:
    """The lines of a shell script that does what is to be done, stage by stage; `this_pipeline` is
    the command line of the pipeline itself.
    """
    lines = ["set -e"]
    to_run = {step.stage.name for step in steps if step.reason}
    for stage, reason in [(step.stage, step.reason) for step in steps if step.reason]:
        lines += ["", f"# {stage.name}: {reason}"]
        if stage.folder.exists() and (
            stage.record.exists() or not _goes_on(stage) or to_run & set(stage.made_with["stages"])
        ):
            lines.append(
                f"mv {shlex.quote(str(stage.folder))}"
                f" {shlex.quote(str(stage.folder))}.unfinished-$(date +%s)"
            )
        lines += [
            shlex.join(["mkdir", "-p", str(stage.folder)]),
            shlex.join(stage.command),
            shlex.join([*this_pipeline, "--accept", stage.name]),
        ]
    return lines


def _goes_on(stage: Keyed) -> bool:
    return any(tuple(stage.command[1 : 1 + len(verb)]) == verb for verb in CONTINUE)


def _run_stage(
    pipeline: Pipeline, stage: Keyed, earlier: dict[str, Keyed], lock: FolderLock, relay: Relay
) -> None:
    make_folder(stage, keep_unfinished=_goes_on(stage) and not outdated(stage, earlier))
    began, started = time.monotonic(), datetime.now().astimezone().isoformat(timespec="seconds")
    tell = partial(_tell, lock, stage.name)
    code = run(stage.command[1:], stage.log, relay, lock, tell, sys.stdout.buffer)
    lock.write_holder()
    if code != 0:
        _check_not_stopped(relay, stage.name)
        said = "".join(f"\n  {line}" for line in last_lines(stage.log))
        raise StageFailed(
            f"stage {stage.name} ended with exit code {code}; the end of {stage.log}:{said}", code
        )
    if changed := changes(stage.made_with, keyed(pipeline, stage.name, earlier).made_with):
        raise BadPipeline(
            f"while stage {stage.name} ran: {', '.join(changed)}. What it made is in {stage.folder}"
            " and of neither state, so it is not taken for done; start again. Should the stage"
            " itself have written there: it is to write into ${folder} alone"
        )
    _check_outputs(stage)
    seconds = time.monotonic() - began
    write_record(stage, earlier, started=started, seconds=round(seconds, 1))
    point_latest(stage)
    _say(f"{stage.name}: done in {seconds:,.0f} s")
    _check_not_stopped(relay, stage.name)


def _tell(lock: FolderLock, stage: str, process: int) -> None:
    lock.write_holder(stage=stage, stage_process=process)


def _check_outputs(stage: Keyed) -> None:
    if missing := missing_outputs(stage):
        there = (
            sorted(path.name for path in stage.folder.iterdir()) if stage.folder.is_dir() else []
        )
        lacking = ", ".join(f"{name} ({path})" for name, path in missing.items())
        raise BadPipeline(
            f"stage {stage.name} ended, but of its outputs there is no {lacking}; in {stage.folder}"
            f" there is {', '.join(there[:5]) or 'nothing'}. Let the command write there, or mend"
            f" `outputs` and say --accept {stage.name}, which does not run it again"
        )


def _check_not_stopped(relay: Relay, name: str) -> None:
    """Ends the pipeline when a signal came: 130 for Ctrl-C, else 128 + its number."""
    match relay.received:
        case None:
            return
        case 2:
            raise Interrupted(f"at stage {name}, by Ctrl-C; the same command goes on from there")
        case number:
            raise StageFailed(
                f"stopped at stage {name} by signal {number}; the same command goes on from there",
                128 + number,
            )


def _say(text: str) -> None:
    print(text, flush=True)
