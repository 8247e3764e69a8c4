"""One recipe carried out: read, build, train, evaluate, report.

`run_recipe` is all of `nearfar fit` but its arguments. It runs on every rank: all of them compute,
and the first alone writes and speaks.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from trainer.build import checks as recipe_checks
from trainer.build import hardware, students
from trainer.build.data import DataSets, data_fingerprint, data_sets, leaked_queries
from trainer.build.data_facts.facts import write_data_facts
from trainer.build.families.registry import build_model, family_of
from trainer.build.identity import model_digest, run_identity
from trainer.build.job import Job
from trainer.build.module import total_steps
from trainer.build.refresh import limit_mining
from trainer.build.resume import checkpoint_to_continue
from trainer.checkpoints.folder import CheckpointFolder
from trainer.collectives import on_first_rank, rank, ranks
from trainer.data.order import check_batch_divisible
from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import Interrupted, NearfarError, OtherRankFailed, Preempted
from trainer.evaluation.before_and_after import Measure, measure_after, measure_before
from trainer.evaluation.results import BASE, FINE_TUNED, Evaluation, Selection, SystemResult
from trainer.evaluation.verdict import Verdict, verdict
from trainer.models.encoder import Encoder
from trainer.models.families import read_any
from trainer.models.files.licence import licence_of
from trainer.progress import expect, phase
from trainer.recipe.load import dump_recipe
from trainer.recipe.schema.families import Recipe
from trainer.report.model_card import complete_model_card
from trainer.report.next_steps import NextStep, easy_pairs
from trainer.report.pictures import write_pictures
from trainer.report.read import read_run
from trainer.report.run_page import write_run_page
from trainer.runtime.attempts import has_run, write_json
from trainer.runtime.console import keep_console, say
from trainer.runtime.run_folder import RunFolder
from trainer.runtime.watch import Watch, watching
from trainer.stopping import shield
from trainer.strategies.machine.nodes import Nodes, check_nodes
from trainer.strategies.machine.own_rank import local_rank
from trainer.strategies.machine.plan import SINGLE, Plan
from trainer.strategies.machine.same_input import check_same
from trainer.strategies.process_group import (
    default_store,
    is_connection_lost,
    lost_rank,
    process_group,
)
from trainer.strategies.weights import own_weights
from trainer.tracking.opening import check_trackers
from trainer.tracking.trackers import run_trackers
from trainer.training import ModelTraining


@dataclass(frozen=True, repr=False)
class RunResult:
    """What a run left behind. It prints as the verdict, the table and the place of the model."""

    folder: Path
    selection: Selection
    """Which weights are in `model/`, and why."""
    evaluation: Evaluation | None
    """What was measured on the test queries; None without any, and on all ranks but the first."""
    test: RetrievalSet | None
    """The test queries, with all documents."""

    @property
    def model(self) -> Path:
        """The folder of the finished model."""
        return self.folder / "model"

    @property
    def verdict(self) -> Verdict | None:
        """Whether training helped, in words."""
        return verdict(self.evaluation, self.selection)

    def __repr__(self) -> str:
        parts = (self.verdict, self.evaluation, f"model: {self.model}")
        return "\n".join(str(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Former:
    """What happens to a former run of the same name. By default, it is refused."""

    replace: bool = False
    """It is moved aside."""
    resume: bool = False
    """It is continued from its newest checkpoint. Without any, it starts again."""
    accept_changes: bool = False
    """It is continued although its data or settings have changed, and the changes are recorded."""


def run_recipe(recipe: Recipe, plan: Plan = SINGLE, former: Former = Former()) -> RunResult:
    """Carries out a recipe on one process of a plan (`trainer.runtime.start.start_process`).

    Raises Interrupted when Ctrl-C ended it early, with everything saved, and Preempted when a
    signal did, with a checkpoint to continue from.
    """
    check_batch_divisible(recipe.optimization.batch_size, plan.ranks)
    check_trackers(recipe.trackers)
    recipe_yaml = dump_recipe(recipe)
    recipe = hardware.on_machine(recipe, plan)
    with watching() as watch, process_group(plan, hardware.accelerator(recipe.machine)):
        watch.hang_seconds = 60.0 * recipe.machine.hang_minutes
        watch.rank, watch.store = rank(), default_store()
        check_same(recipe_yaml, "recipe")
        nodes = _check_nodes(recipe, Path(recipe.output) / recipe.name)
        job = _prepare(recipe, plan, former.replace)
        with _run_folder(job, recipe_yaml, former) as folder:
            on_first_rank(lambda: _begin_folder(folder, nodes))
            watch.watch_folder(folder.path)
            watch.before_exit = folder.finish_at_once
            with _failures_are_told(watch):
                return _carry_out(job, folder, former)


@contextmanager
def _failures_are_told(watch: Watch) -> Iterator[None]:
    """Tells the other ranks about an error of this one. If another rank was lost, it writes the
    stacks of this one into the run folder and raises OtherRankFailed.
    """
    try:
        yield
    except (Preempted, Interrupted, OtherRankFailed):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and is_connection_lost(error):
            watch.write_stacks(traceback.format_exc())
            raise lost_rank() from error
        watch.tell_failure(error, error.exit_code if isinstance(error, NearfarError) else 1)
        raise


def _check_nodes(recipe: Recipe, path: Path) -> Nodes | None:
    """Compares the nodes, and the base model on them; None for a single process."""
    if ranks() == 1:
        return None
    with phase("checking the nodes"):
        nodes = check_nodes(path, hardware.device(recipe.machine))
        is_first = local_rank(os.environ) == 0  # one rank per node reads the files
        for base in recipe.model.base_models.values():
            check_same(model_digest(base) if is_first else None, "base model")
    for line in (*nodes.warnings, nodes.summary):
        say(line)
    return nodes


def _begin_folder(folder: RunFolder, nodes: Nodes | None) -> None:
    """Stores the console and the nodes of this attempt."""
    keep_console(folder.path)
    if nodes is not None:
        write_json(folder.path / "nodes.json", nodes.record())


def _prepare(recipe: Recipe, plan: Plan, replace: bool) -> Job:
    """Reads the data and builds the model, writing nothing into the run folder."""
    students.locate_other_models(recipe)
    hardware.prepare_machine(recipe.machine)
    with phase("the data", kind="reading"):
        all_negatives = recipe.refresh_section is not None
        data = data_sets(recipe.data, recipe.seed, all_negatives, recipe.has_images)
    check_same(f"{len(data.train)} rows\n{data.digests}", "data")
    recipe_checks.check_objective(recipe, data.train, data.mixture)
    recipe, mining_warning = limit_mining(recipe, data.train)
    steps = total_steps(recipe.optimization, len(data.train))
    with phase("loading the model"):
        encoder = _initial_encoder(recipe, data)
    with phase("preparing the teacher"):
        teachers = students.load_teachers(recipe, data.train, replace)
    job = Job(recipe, plan, data, encoder, teachers, steps)
    expect(job.phases)
    say("\n".join((job.summary, *data.remarks)))
    for warning in filter(None, (*data.warnings, mining_warning)):
        say(f"warning: {warning}")
    return job


def _initial_encoder(recipe: Recipe, data: DataSets) -> Encoder:
    """The encoder as it is before the first step: the same each time."""
    encoder = build_model(recipe)
    own_weights(encoder)
    family_of(recipe).start(recipe, encoder, data.train)
    return encoder


def _run_folder(job: Job, recipe_yaml: str, former: Former) -> RunFolder:
    """The new run folder, or that of the run to continue, locked by the first rank."""
    recipe = job.recipe
    path = Path(recipe.output) / recipe.name

    def open_folder() -> RunFolder:
        if former.resume and has_run(path):
            return RunFolder.reopen(path, sys.argv)
        fingerprint = data_fingerprint(recipe, len(job.data.train), job.data.digests)
        return RunFolder.create(path, recipe_yaml, sys.argv, fingerprint, former.replace)

    return on_first_rank(open_folder) or RunFolder.for_other_rank(path)


def _carry_out(job: Job, folder: RunFolder, former: Former) -> RunResult:
    """Measures, trains, measures again, and writes the report."""
    folder.note(steps=job.steps, validation_limitation=job.data.validation.limitation)
    checkpoints = CheckpointFolder(folder.checkpoints, job.recipe.checkpoints.keep_last)
    identity = on_first_rank(  # which alone compares and stores it
        lambda: run_identity(job.recipe, len(job.data.train), job.data.digests)
    )
    checkpoint = checkpoint_to_continue(checkpoints, identity or {}, folder, former.accept_changes)
    with phase("describing the data"):  # only now: a run of other data has been refused
        facts = folder.path / "data.json"
        on_first_rank(lambda: write_data_facts(job, facts, former.accept_changes))
    recipe = job.recipe
    with run_trackers(recipe.trackers, folder.path, recipe.model_dump(mode="json")) as trackers:
        baselines = _measure_before(job, folder)
        training = ModelTraining(job, folder, checkpoints, identity or {}, checkpoint, trackers)
        training.run()
        with shield() if training.is_interrupted else nullcontext():
            training.save()
            selection, evaluation = training.selection, None
            if not training.is_interrupted and baselines is not None:
                evaluation = _measure_after(job, folder, baselines, selection)
            say(f"the model is in {folder.model}")
            _finish(folder, training)
    return RunResult(folder.path, selection, evaluation, job.data.test)


def _finish(folder: RunFolder, training: ModelTraining) -> None:
    """Writes the report. Raises Interrupted if Ctrl-C has ended the training."""
    selection = training.selection
    if training.is_interrupted:
        folder.finish("stopped", exit_code=Interrupted.exit_code, selection=asdict(selection))
    else:
        folder.finish("done", exit_code=0, selection=asdict(selection))
    with phase("writing the report"):
        bases = [*training.job.recipe.model.base_models.values()]
        report, warnings = on_first_rank(lambda: _write_pages(folder.path, bases)) or (None, ())
        for step in warnings:
            say(f"warning: {step.reason}. {step.advice}")
    say(f"report: {report}")
    if training.is_interrupted:
        content = "the model as it was before training" if selection.base_won else "the best so far"
        raise Interrupted(
            f"before the end, by Ctrl-C; {folder.model} holds {content}. Continue with --resume"
        )


def _write_pages(folder: Path, bases: list[str]) -> tuple[Path, tuple[NextStep, ...]]:
    """Completes the model card and writes the report. Returns its path, and what to warn of."""
    run, licences = read_run(folder), {licence_of(base) for base in bases}
    complete_model_card(run, licences.pop() if len(licences) == 1 else None)
    return write_run_page(run), tuple(easy_pairs(run))


def _measure_before(job: Job, folder: RunFolder) -> Evaluation | None:
    """What is measured before training; None without test queries."""
    if job.data.test is None:
        return None
    measure_base = None if job.encoder.is_untrained else _measure(job, job.encoder, BASE)
    return measure_before(job.data.final_sets, measure_base, folder.baselines_path)


def _measure_after(
    job: Job, folder: RunFolder, baselines: Evaluation, selection: Selection
) -> Evaluation | None:
    """Measures the saved folder, as a user will load it. None on all ranks but the first."""
    measure_tuned = None
    if not selection.base_won or job.encoder.is_untrained:
        measure_tuned = _measure(job, read_any(str(folder.model)), FINE_TUNED)
    evaluation = measure_after(
        baselines,
        job.data.final_sets,
        measure_tuned,
        partial(leaked_queries, job.data.known_positives),
        selection,
        folder.evaluation_path,
    )
    if evaluation is not None and (test := job.data.final_sets[0]).has_images:
        write_pictures(folder.path, evaluation, test.documents_by_id)
    return evaluation


def _measure(job: Job, encoder: Encoder, name: str) -> Measure:
    encoder = encoder.to(hardware.device(job.recipe.machine))

    def measure(judged_set: RetrievalSet) -> SystemResult:
        with phase(f"{name} model on {judged_set.name}", kind=judged_set.name):
            return job.evaluate(encoder, judged_set, name=name)

    return measure
