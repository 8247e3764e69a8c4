"""`nearfar fit`: recipe in, model folder out, with the proof that it is better."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.strategies.own_rank import is_first_rank

if TYPE_CHECKING:
    from trainer.build.data import DataSets
    from trainer.evaluation.results import Selection, SystemResult
    from trainer.models.encoder import Encoder
    from trainer.objectives.teachers import Teacher
    from trainer.recipe.schema import Recipe
    from trainer.runtime.run_folder import RunFolder
    from trainer.strategies.environment import Plan


def fit(
    recipe: Annotated[
        Path,
        typer.Argument(help="recipe file, e.g. recipes/bi-encoder-lora.yaml", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="changes to it: key.sub=value", show_default=False)
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help=(
                "move a former run of this name aside, and make anew what a teacher kept of"
                " something else"
            ),
        ),
    ] = False,
) -> None:
    """Train a model by a recipe; prints it against the base model and BM25 where there is a test
    set.
    """
    from trainer.recipe.load import load_recipe
    from trainer.runtime.run_folder import check_run_folder
    from trainer.strategies.deepspeed_settings import settle_device
    from trainer.strategies.environment import check_here, plan_from_environment

    run, plan = load_recipe(recipe, overrides or []), plan_from_environment(os.environ)
    if is_first_rank(os.environ):
        check_run_folder(
            Path(run.output) / run.name, replace
        )  # a mistake up to here is answered before anything heavy is imported

    check_here(plan)
    settle_device(plan.accelerator)  # before transformers is imported

    from trainer.build import hardware
    from trainer.data.order import check_batch_divisible
    from trainer.runtime.trackers import check_trackers
    from trainer.strategies.process_group import process_group

    check_batch_divisible(run.optimization.batch_size, plan.ranks)
    check_trackers(run.trackers)
    with process_group(plan, hardware.accelerator(hardware.on_machine(run, plan).machine)):
        _fit(run, plan, replace)


def _fit(run: "Recipe", plan: "Plan", replace: bool) -> None:
    """One run, on every rank: all compute, the first alone writes and speaks."""
    from trainer.build import checks as recipe_checks
    from trainer.build import hardware, students
    from trainer.build.data import data_sets, seen_in_training
    from trainer.build.module import encoder_of, total_steps
    from trainer.collectives import check_same, on_first
    from trainer.data.fingerprint import fingerprint
    from trainer.errors import Interrupted
    from trainer.recipe.load import dump_recipe
    from trainer.runtime.run_folder import RunFolder

    path, as_written, run = (
        Path(run.output) / run.name,
        dump_recipe(run),
        hardware.on_machine(run, plan),
    )
    check_same(as_written, "recipe")
    students.locate_others(run)
    hardware.prepare_machine(run.machine)
    _say(f"reading {', '.join(source.source for source in run.data.sources)}")
    data = data_sets(run.data, run.seed, all_negatives=run.refresh is not None)
    recipe_checks.check_objective(run, data.train, data.mixture)
    steps = total_steps(run.optimization, len(data.train))
    encoder = encoder_of(run)
    students.start(run, encoder, data.train)
    taught_by = students.teachers(run, data.train, replace)
    _say(_summary(run, data, encoder, steps, plan))
    for name, held_out in (("validation", data.validation), ("test", data.test)):
        if held_out is not None and (seen := seen_in_training(data.train, held_out)):
            _say(
                f"warning: {seen:,} of {len(held_out.queries):,} {name} queries are training"
                " queries too; what is measured on them proves nothing"
            )
    corpus = run.refresh.corpus if run.refresh is not None else None
    made = on_first(
        lambda: RunFolder.create(
            path, as_written, sys.argv, fingerprint(run.data, len(data.train), corpus), replace
        )
    )
    with made or RunFolder.of_another_rank(path) as folder:
        before = _evaluate_before(run, data, encoder)
        interrupted, selection = _train(run, data, encoder, steps, folder, plan, taught_by)
        if not interrupted:
            _result(run, data, folder, before, selection)
        _say(f"the model is in {folder.model}")
        folder.finish("stopped" if interrupted else "done", selection=asdict(selection))
        on_first(lambda: _report(folder))
        if interrupted:
            raise Interrupted(
                f"before the end, by Ctrl-C; the best weights so far are in {folder.model}"
            )


def _say(text: str) -> None:
    from trainer.collectives import rank

    if rank() == 0:
        print(text, file=sys.stderr, flush=True)


def _summary(run: "Recipe", data: "DataSets", encoder: "Encoder", steps: int, plan: "Plan") -> str:
    from trainer.build import hardware

    trained = sum(
        parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
    )
    everything = sum(parameter.numel() for parameter in encoder.parameters())
    test = f", {len(data.test.queries):,} test queries" if data.test else ""
    mixture = (
        f"{data.mixture.summary(steps, run.optimization.batch_size)}\n" if data.mixture else ""
    )
    passes = steps * run.optimization.batch_size / len(data.train)
    ranks = f", {plan.kind} on {plan.ranks} ranks" if plan.ranks > 1 else ""
    return (
        f"{run.name}: {len(data.train):,} training pairs, {len(data.validation.queries):,}"
        f" validation queries{test}\n{mixture}{run.model.backbone}, {run.model.tuning.kind}:"
        f" {trained:,} of {everything:,} weights are trained\n{steps} steps of"
        f" {run.optimization.batch_size} queries, {passes:.3g} passes over the training pairs,"
        f" {hardware.accelerator(run.machine)},"
        f" {hardware.precision(run.machine)}{ranks}"
    )


def _evaluate_before(run: "Recipe", data: "DataSets", encoder: "Encoder") -> "list[SystemResult]":
    """BM25 (on the first rank) and the untrained encoder on the test queries; nothing without a
    test set.
    """
    if data.test is None:
        return []
    from trainer.build import cross_encoder as build_cross_encoder
    from trainer.build import hardware
    from trainer.collectives import on_first
    from trainer.evaluation.evaluate import evaluate, evaluate_bm25
    from trainer.models.cross_encoder import CrossEncoder

    test = data.test
    untrained = isinstance(encoder, CrossEncoder) and encoder.fresh_head
    _say(f"measuring BM25{'' if untrained else ' and the base model'} on the test queries")
    encoder.to(hardware.device(run.machine))
    bm25 = on_first(lambda: evaluate_bm25(test))
    if untrained:  # its scores are random
        return [bm25] if bm25 else []
    how, tokens = hardware.precision(run.machine), hardware.micro_batch_tokens(run.machine)
    base = evaluate(
        encoder,
        test,
        name="base",
        precision=how,
        micro_batch_tokens=tokens,
        candidates=build_cross_encoder.candidates(run),
    )
    return [bm25, base] if bm25 else [base]


def _train(
    run: "Recipe",
    data: "DataSets",
    encoder: "Encoder",
    steps: int,
    folder: "RunFolder",
    plan: "Plan",
    taught_by: "list[Teacher]",
) -> "tuple[bool, Selection]":
    """Trains and writes `model/`: the weights of the best validation, or those from before training
    where no validation was better. Returns whether Ctrl-C ended it early, and the choice.
    """
    from trainer.build import students
    from trainer.build.data import pair_data
    from trainer.build.lightning_trainer import lightning_trainer
    from trainer.build.module import encoder_of, lightning_module
    from trainer.build.refresh import refresh
    from trainer.collectives import on_first
    from trainer.evaluation.results import MAIN_METRIC, Selection
    from trainer.models.cross_encoder import CrossEncoder
    from trainer.models.formats.folder import save_encoder
    from trainer.models.parts.lora import check_adapter_learned
    from trainer.modules.bi_encoder import NonFiniteStep
    from trainer.runtime.best import KeepBest
    from trainer.runtime.run_folder import write_json
    from trainer.runtime.stop import GracefulStop

    module = lightning_module(run, encoder, steps, plan, taught_by)
    metrics = module.validate(data.validation)
    best, stop = KeepBest(folder.checkpoints / "best"), GracefulStop()
    untrained = isinstance(encoder, CrossEncoder) and encoder.fresh_head  # its scores are random
    base_score = None if untrained else metrics[MAIN_METRIC]
    refreshed = refresh(run, data.train, folder.path / "refresh", steps)
    trainer = lightning_trainer(
        run,
        folder,
        steps,
        len(data.train),
        [best, stop, *([refreshed] if refreshed else [])],
        plan,
        base_score,
    )
    for logger in trainer.loggers:
        logger.log_metrics({f"validation/{name}": value for name, value in metrics.items()}, step=0)
    try:
        trainer.fit(module, datamodule=pair_data(run, data, encoder, steps, refreshed))
    except NonFiniteStep as error:
        record = error.record
        on_first(lambda: write_json(folder.path / "non_finite.json", record))
        raise
    interrupted = stop.interrupted and trainer.global_step < steps
    selection = Selection(base_score, best.score, best.step)
    trained = encoder_of(run)  # complete and plain, whatever the strategy has made of the other
    best.restore(trained)
    if not interrupted:
        check_adapter_learned(trained)
    if selection.base_won:
        trained = encoder_of(run)
        students.start(run, trained, data.train)
    on_first(lambda: save_encoder(trained, folder.model))
    return interrupted, selection


def _result(
    run: "Recipe",
    data: "DataSets",
    folder: "RunFolder",
    before: "list[SystemResult]",
    selection: "Selection",
) -> None:
    """Prints the verdict, and on test queries what it rests on."""
    from rich.console import Console

    from trainer.collectives import on_first
    from trainer.evaluation.results import BASE
    from trainer.evaluation.table import verdict_line

    if data.test is None:
        on_first(lambda: Console().print(verdict_line(None, selection)))
        return
    base_measured = any(system.name == BASE for system in before)
    systems = (
        before if selection.base_won and base_measured else [*before, _after(run, data, folder)]
    )
    on_first(lambda: _compare(data, folder, systems, selection))


def _after(run: "Recipe", data: "DataSets", folder: "RunFolder") -> "SystemResult":
    """Measures the saved folder on the test queries, as a user will load it."""
    from trainer.build import cross_encoder as build_cross_encoder
    from trainer.build import hardware
    from trainer.evaluation.evaluate import evaluate
    from trainer.models.families import read_any

    assert data.test is not None
    return evaluate(
        read_any(str(folder.model)).to(hardware.device(run.machine)),
        data.test,
        name="fine-tuned",
        precision=hardware.precision(run.machine),
        micro_batch_tokens=hardware.micro_batch_tokens(run.machine),
        candidates=build_cross_encoder.candidates(run),
    )


def _compare(
    data: "DataSets",
    folder: "RunFolder",
    systems: "list[SystemResult]",
    selection: "Selection",
) -> None:
    from rich.console import Console

    from trainer.build.data import seen_in_training
    from trainer.evaluation.results import compare, write_evaluation
    from trainer.evaluation.table import (
        comparison_lines,
        comparison_table,
        search_examples,
        verdict_line,
    )

    assert data.test is not None
    leaked = seen_in_training(data.train, data.test)
    evaluation = compare(data.test, "test", systems, leaked_queries=leaked, selection=selection)
    write_evaluation(evaluation, folder.evaluation_path)
    console = Console()
    console.print(verdict_line(evaluation))
    console.print(comparison_table(evaluation))
    for line in comparison_lines(evaluation):
        console.print(line)
    if len(systems) > 1:
        console.print(search_examples(data.test, systems[-2], systems[-1], count=3))


def _report(folder: "RunFolder") -> None:
    from trainer.report.html import write_report

    _say(f"report: {write_report(folder.path)}")
