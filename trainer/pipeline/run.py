"""Runs the stages that are not done, in order, and records each stage that succeeds."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from trainer.errors import BadPipeline, Preempted, StageFailed
from trainer.pipeline.file import Pipeline
from trainer.pipeline.graph import needs, order
from trainer.pipeline.keys import KeyedStage, add_key, add_keys, changes
from trainer.pipeline.process import Relay, last_lines, run
from trainer.pipeline.state import (
    is_outdated,
    lock_pipeline,
    make_folder,
    missing_outputs,
    move_aside,
    point_latest,
    reason_to_run,
    write_record,
)
from trainer.recipe.nearest import nearest, question
from trainer.storage.locks import FolderLock
from trainer.storage.redaction import redact_command

_CONTINUE = "the same command continues from there"
TRAIN: set[tuple[str, ...]] = {("fit",), ("launch",)}
CONTINUE = {*TRAIN, ("mine",), ("data", "prepare")}
"""Commands that continue in the folder of a stopped run. The others begin with an empty folder."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage and the reason why it will run; the reason is "" if the stage is done."""

    stage: KeyedStage
    reason: str


def plan(pipeline: Pipeline, start: str | None = None) -> list[PlannedStage]:
    """Returns all stages in the order in which they run.

    Stage `start` and all stages that depend on it run although they are done. Raises `BadPipeline`
    or `BadRecipe`.
    """
    stages = add_keys(pipeline, order(pipeline))
    repeated_stages = with_dependents(pipeline, start) if start is not None else set()
    reasons: dict[str, str] = {}
    for name, stage in stages.items():
        repetition = ""
        if name in repeated_stages:
            repetition = "requested by --from" if name == start else f"stage {start} runs again"
        dependency = ", ".join(
            f"stage {needed_stage} will run"
            for needed_stage in needs(pipeline, name)
            if reasons[needed_stage]
        )
        reasons[name] = reason_to_run(stage, stages) or repetition or dependency
    return [PlannedStage(stage, reasons[name]) for name, stage in stages.items()]


def with_dependents(pipeline: Pipeline, start: str) -> set[str]:
    """Returns a stage and all stages that depend on it."""
    check_stage(pipeline, start)
    dependents = {start}
    for name in order(pipeline):
        if dependents & set(needs(pipeline, name)):
            dependents.add(name)
    return dependents


def check_stage(pipeline: Pipeline, name: str) -> None:
    """Raises `BadPipeline` with the nearest name if there is no such stage."""
    if name not in pipeline.stages:
        near = (
            question(nearest(name, pipeline.stages)) or f"; there are {', '.join(pipeline.stages)}"
        )
        raise BadPipeline(f"there is no stage {name}{near}")


def run_all(
    pipeline: Pipeline, single_stage: str | None = None, start: str | None = None
) -> list[KeyedStage]:
    """Runs the stages that are not done and returns all stages.

    `single_stage` runs only that stage. `start` runs that stage again with all that depend on it.
    Raises `BadFolder` if another process runs the pipeline, `StageFailed` with the exit code of the
    stage, `BadPipeline` if a stage succeeded and an output is missing, `Interrupted` on Ctrl-C, and
    `Preempted` if another signal ended the pipeline or a stage early. After each of these, the same
    call continues with the first stage that is not done.
    """
    names = order(pipeline)
    with lock_pipeline(pipeline.folder) as lock, Relay() as relay:
        if start is not None:
            check_stage(pipeline, start)
            # The stages that depend on it notice by its new record that it has run again.
            move_aside(add_keys(pipeline, names)[start], "replaced")
        stages: dict[str, KeyedStage] = {}
        for number, name in enumerate(names, 1):
            # The key is computed now and not before the first stage, because a recipe may have been
            # edited while earlier stages ran for hours.
            stage = stages[name] = add_key(pipeline, name, stages)
            reason = reason_to_run(stage, stages)
            relay.check(f"at stage {name}", _CONTINUE)
            if not reason:
                point_latest(stage)
                _say(f"[{number}/{len(names)}] {name}: done before")
            elif single_stage in (None, name):
                _say(
                    f"[{number}/{len(names)}] {name}: to run: {reason}\n$"
                    f" {redact_command(_command(stage, pipeline))}"
                )
                _run_stage(pipeline, stage, stages, lock, relay)
            elif single_stage in with_dependents(pipeline, name):
                raise BadPipeline(
                    f"stage {single_stage} needs stage {name}, which is not done: {reason}; run"
                    f" stage {name} first"
                )
    return list(stages.values())


def accept(pipeline: Pipeline, name: str) -> KeyedStage:
    """Records a stage as done whose command was run by hand.

    Raises `BadPipeline` if a stage that it needs is not done, or if an output is missing.
    """
    check_stage(pipeline, name)
    with lock_pipeline(pipeline.folder):
        steps = {step.stage.name: step for step in plan(pipeline)}
        stage = steps[name].stage
        for needed_stage in needs(pipeline, name):
            if reason := steps[needed_stage].reason:
                raise BadPipeline(
                    f"stage {name} needs stage {needed_stage}, which is not done: {reason};"
                    f" run stage {needed_stage} first"
                )
        _check_outputs(stage)
        if steps[name].reason:
            stage.folder.mkdir(parents=True, exist_ok=True)
            stages = {stage_name: step.stage for stage_name, step in steps.items()}
            write_record(stage, stages, by_hand=True)
        point_latest(stage)
    return stage


def script_lines(
    pipeline: Pipeline, steps: Sequence[PlannedStage], this_pipeline: Sequence[str]
) -> list[str]:
    """Returns the lines of a shell script that runs the stages that are not done.

    `this_pipeline` is the command line of the pipeline itself.
    """
    lines = ["set -e"]
    to_run = {step.stage.name for step in steps if step.reason}
    for stage, reason in [(step.stage, step.reason) for step in steps if step.reason]:
        lines += ["", f"# {stage.name}: {reason}"]
        if stage.folder.exists() and (
            stage.record.exists()
            or not _continues(stage)
            or to_run & set(stage.dependencies["stages"])
        ):
            lines.append(
                f"mv {shlex.quote(str(stage.folder))}"
                f" {shlex.quote(str(stage.folder))}.unfinished-$(date +%s)"
            )
        lines += [
            shlex.join(["mkdir", "-p", str(stage.folder)]),
            shlex.join(_command(stage, pipeline)),
            shlex.join([*this_pipeline, "--accept", stage.name]),
        ]
    return lines


def _continues(stage: KeyedStage) -> bool:
    """Returns True if the command of a stage continues in the folder of a stopped run."""
    return _is_one_of(stage, CONTINUE) and "--replace" not in stage.command


def _command(stage: KeyedStage, pipeline: Pipeline) -> list[str]:
    """Returns the command of a stage with the trackers of the pipeline; training continues from its
    checkpoints, if there are any.
    """
    continues = _is_one_of(stage, TRAIN) and not {"--replace", "--resume"} & {*stage.command}
    return [*stage.command, *_tracker_words(stage, pipeline), *(["--resume"] if continues else [])]


def _tracker_words(stage: KeyedStage, pipeline: Pipeline) -> list[str]:
    """Returns the words by which a stage is shown in the trackers of the pipeline.

    They are no part of the stage's key, as they change no result. A stage with its own trackers
    gets none.
    """
    if any(word.startswith(("trackers", "--tracker")) for word in stage.command):
        return []
    trackers = [tracker.model_dump(mode="json") for tracker in pipeline.trackers]
    for tracker in trackers:
        if "group" in tracker:
            tracker["group"] = tracker["group"] or pipeline.name
    if _is_one_of(stage, TRAIN) and trackers:
        return [f"trackers={json.dumps(trackers)}"]
    if _is_one_of(stage, {("mine",), ("evaluate",)}):
        return [word for tracker in trackers for word in ("--tracker", json.dumps(tracker))]
    return []


def _is_one_of(stage: KeyedStage, verbs: set[tuple[str, ...]]) -> bool:
    return any(tuple(stage.command[1 : 1 + len(verb)]) == verb for verb in verbs)


def _run_stage(
    pipeline: Pipeline,
    stage: KeyedStage,
    earlier: dict[str, KeyedStage],
    lock: FolderLock,
    relay: Relay,
) -> None:
    make_folder(stage, keep_unfinished=_continues(stage) and not is_outdated(stage, earlier))
    start = time.monotonic()
    start_time = datetime.now().astimezone().isoformat(timespec="seconds")
    write_process = partial(_write_process, lock, stage.name)
    words = _command(stage, pipeline)[1:]
    code = run(words, stage.log, relay, lock, write_process, sys.stdout.buffer)
    lock.write_holder()
    if code != 0:
        if code in (Preempted.exit_code, 128 + (relay.first_signal or 0)):
            relay.check(f"at stage {stage.name}", _CONTINUE)
        if code == Preempted.exit_code:
            raise Preempted(f"at stage {stage.name}; {_CONTINUE}")
        log_end = "".join(f"\n  {line}" for line in last_lines(stage.log))
        raise StageFailed(
            f"stage {stage.name} ended with exit code {code}; the end of {stage.log}:{log_end}",
            code,
        )
    if differences := changes(
        stage.dependencies, add_key(pipeline, stage.name, earlier).dependencies
    ):
        raise BadPipeline(
            f"while stage {stage.name} ran: {', '.join(differences)}. Its outputs in"
            f" {stage.folder} may be a mixture of both states, so it is not done; run the pipeline"
            " again. If the stage itself wrote these files, let it write only into ${folder}"
        )
    _check_outputs(stage)
    seconds = time.monotonic() - start
    write_record(stage, earlier, started=start_time, seconds=round(seconds, 1))
    point_latest(stage)
    _say(f"{stage.name}: done in {seconds:,.0f} s")
    relay.check(f"at stage {stage.name}", _CONTINUE)


def _write_process(lock: FolderLock, stage: str, process: int) -> None:
    """Writes the process of the stage into the lock file, for messages about a folder in use."""
    lock.write_holder(stage=stage, stage_process=process)


def _check_outputs(stage: KeyedStage) -> None:
    if missing := missing_outputs(stage):
        files = (
            sorted(path.name for path in stage.folder.iterdir()) if stage.folder.is_dir() else []
        )
        missing_names = ", ".join(f"{name} ({path})" for name, path in missing.items())
        raise BadPipeline(
            f"stage {stage.name} succeeded, but these outputs are missing: {missing_names};"
            f" {stage.folder} contains {', '.join(files[:5]) or 'nothing'}. Let the command write"
            f" the outputs, or correct `outputs` and use --accept {stage.name}, which does not run"
            " the stage again"
        )


def _say(text: str) -> None:
    print(text, flush=True)
