"""One recipe carried out: read, build, train, evaluate, report.

`run_recipe` is all of `nearfar fit` but its arguments. It runs on every rank: all of them compute,
and the first alone writes and speaks.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.build import checks as recipe_checks
from trainer.build import hardware, students
from trainer.build.data import DataSets, data_fingerprint, data_sets, leaked_queries, pair_data
from trainer.build.families.registry import build_model, family_of
from trainer.build.job import Job
from trainer.build.lightning_trainer import lightning_trainer
from trainer.build.module import lightning_module, total_steps
from trainer.build.refresh import refresh
from trainer.collectives import check_same, on_first_rank
from trainer.data.order import check_batch_divisible
from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import Interrupted
from trainer.evaluation.evaluate import evaluate_bm25
from trainer.evaluation.evaluation_file import write_evaluation
from trainer.evaluation.results import (
    BASE,
    FINE_TUNED,
    MAIN_METRIC,
    Evaluation,
    Selection,
    SystemResult,
    compare,
)
from trainer.evaluation.verdict import Verdict, verdict
from trainer.models.encoder import Encoder
from trainer.models.families import read_any
from trainer.models.formats.folder import save_encoder
from trainer.models.parts.lora import check_adapter_learned
from trainer.modules.retriever import NonFiniteStep
from trainer.progress import expect, phase
from trainer.recipe.load import dump_recipe
from trainer.recipe.schema.families import Recipe
from trainer.report.run_page import write_report
from trainer.runtime.best import KeepBest
from trainer.runtime.console import keep_console, say
from trainer.runtime.run_folder import RunFolder, write_json
from trainer.runtime.stop import GracefulStop
from trainer.runtime.tracking.trackers import check_trackers
from trainer.strategies.machine.plan import SINGLE, Plan
from trainer.strategies.process_group import process_group


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


def run_recipe(recipe: Recipe, plan: Plan = SINGLE, replace: bool = False) -> RunResult:
    """Carries out a recipe on one process of a plan (`trainer.runtime.start.start_process`).

    With `replace`, a former run of the same name is moved aside. Raises Interrupted when Ctrl-C
    ended it early, with everything saved.
    """
    check_batch_divisible(recipe.optimization.batch_size, plan.ranks)
    check_trackers(recipe.trackers)
    recipe_yaml = dump_recipe(recipe)
    recipe = hardware.on_machine(recipe, plan)
    with process_group(plan, hardware.accelerator(recipe.machine)):
        check_same(recipe_yaml, "recipe")
        job = _prepare(recipe, plan, replace)
        with _run_folder(job, recipe_yaml, replace) as folder:
            on_first_rank(lambda: keep_console(folder.path))
            return _carry_out(job, folder)


def _prepare(recipe: Recipe, plan: Plan, replace: bool) -> Job:
    """Reads the data and builds the model, writing nothing into the run folder."""
    students.locate_other_models(recipe)
    hardware.prepare_machine(recipe.machine)
    with phase("the data", kind="reading"):
        data = data_sets(recipe.data, recipe.seed, all_negatives=recipe.refresh_section is not None)
    recipe_checks.check_objective(recipe, data.train, data.mixture)
    steps = total_steps(recipe.optimization, len(data.train))
    with phase("loading the model"):
        encoder = _initial_encoder(recipe, data)
    with phase("preparing the teacher"):
        teachers = students.load_teachers(recipe, data.train, replace)
    job = Job(recipe, plan, data, encoder, teachers, steps)
    expect(job.phases)
    say(job.summary)
    for name, held_out in (("validation", data.validation), ("test", data.test)):
        if held_out is not None and (leaks := leaked_queries(data.train, held_out)):
            say(
                f"warning: {leaks:,} of {len(held_out.queries):,} {name} queries are training"
                " queries too; what is measured on them proves nothing"
            )
    return job


def _initial_encoder(recipe: Recipe, data: DataSets) -> Encoder:
    """The encoder as it is before the first step: the same each time."""
    encoder = build_model(recipe)
    family_of(recipe).start(recipe, encoder, data.train)
    return encoder


def _run_folder(job: Job, recipe_yaml: str, replace: bool) -> RunFolder:
    """The new run folder, made and locked by the first rank."""
    recipe = job.recipe
    path = Path(recipe.output) / recipe.name
    folder = on_first_rank(
        lambda: RunFolder.create(
            path,
            recipe_yaml,
            sys.argv,
            data_fingerprint(recipe, len(job.data.train)),
            replace,
        )
    )
    return folder or RunFolder.for_other_rank(path)


def _carry_out(job: Job, folder: RunFolder) -> RunResult:
    """Measures, trains, measures again, and writes the report."""
    rivals = _measure_rivals(job)
    selection, is_interrupted = _train(job, folder)
    evaluation = None
    if not is_interrupted and job.data.test is not None:
        evaluation = _evaluate(job, job.data.test, folder, rivals, selection)
    say(f"the model is in {folder.model}")
    folder.finish("stopped" if is_interrupted else "done", selection=asdict(selection))
    with phase("writing the report"):
        report = on_first_rank(lambda: write_report(folder.path))
    say(f"report: {report}")
    if is_interrupted:
        content = "the model as it was before training" if selection.base_won else "the best so far"
        raise Interrupted(f"before the end, by Ctrl-C; {folder.model} holds {content}")
    return RunResult(folder.path, selection, evaluation, job.data.test)


def _measure_rivals(job: Job) -> list[SystemResult]:
    """BM25 (on the first rank) and the untrained encoder on the test queries; nothing without
    any.
    """
    test = job.data.test
    if test is None:
        return []
    with phase("BM25 on test queries", kind="BM25"):
        bm25 = on_first_rank(lambda: evaluate_bm25(test))
    systems = [] if bm25 is None else [bm25]
    if not job.encoder.is_untrained:
        systems.append(_measure(job, job.encoder, test, BASE))
    return systems


def _measure(job: Job, encoder: Encoder, test: RetrievalSet, name: str) -> SystemResult:
    with phase(f"{name} model on test queries", kind="test"):
        return job.evaluate(encoder.to(hardware.device(job.recipe.machine)), test, name=name)


def _train(job: Job, folder: RunFolder) -> tuple[Selection, bool]:
    """Trains and writes `model/`. Returns how its weights were chosen, and whether Ctrl-C ended the
    training early.
    """
    recipe, data = job.recipe, job.data
    module = lightning_module(recipe, job.encoder, job.steps, job.plan, job.teachers)
    with phase("validation before training", kind="validation"):
        scores = module.validate(data.validation)
    base_score = None if job.encoder.is_untrained else scores[MAIN_METRIC]
    best, stop = KeepBest(folder.checkpoints / "best"), GracefulStop()
    refresher = refresh(recipe, data.train, folder.path / "refresh", job.steps)
    callbacks = [best, stop, *([refresher] if refresher else [])]
    loop = lightning_trainer(
        recipe, folder, job.steps, len(data.train), callbacks, job.plan, base_score
    )
    for logger in loop.loggers:
        logger.log_metrics({f"validation/{name}": score for name, score in scores.items()}, step=0)
    try:
        loop.fit(module, datamodule=pair_data(recipe, data, job.encoder, job.steps, refresher))
    except NonFiniteStep as error:
        record = error.record
        on_first_rank(lambda: write_json(folder.path / "non_finite.json", record))
        raise
    is_interrupted = stop.is_requested and loop.global_step < job.steps
    selection = Selection(base_score, best.score, best.step)
    if selection.base_won:
        expect({})  # it has been measured already
    if best.score is not None:
        from_base = f", {base_score:.3f} before training" if base_score is not None else ""
        say(f"best validation nDCG@10 {best.score:.3f} at step {best.step}{from_base}")
    with phase("saving the model"):
        _save(job, folder, best, selection, check_learned=not is_interrupted)
    return selection, is_interrupted


def _save(
    job: Job, folder: RunFolder, best: KeepBest, selection: Selection, check_learned: bool
) -> None:
    """Writes `model/`: the weights of the best validation, or those from before training where no
    validation was better.
    """
    encoder = build_model(job.recipe)  # the one in training may be shared out among ranks
    best.restore(encoder)
    if check_learned:
        check_adapter_learned(encoder)
    if selection.base_won:
        encoder = _initial_encoder(job.recipe, job.data)
    on_first_rank(lambda: save_encoder(encoder, folder.model))


def _evaluate(
    job: Job,
    test: RetrievalSet,
    folder: RunFolder,
    rivals: list[SystemResult],
    selection: Selection,
) -> Evaluation | None:
    """Measures the saved folder, as a user will load it, and writes `evaluation.json`. Where the
    base model won, it has been measured already. None on all ranks but the first.
    """
    systems = rivals
    if not selection.base_won or job.encoder.is_untrained:
        systems = [*rivals, _measure(job, read_any(str(folder.model)), test, FINE_TUNED)]

    def write() -> Evaluation:
        leaks = leaked_queries(job.data.train, test)
        evaluation = compare(test, "test", systems, leaked_queries=leaks, selection=selection)
        write_evaluation(evaluation, folder.evaluation_path)
        return evaluation

    return on_first_rank(write)
