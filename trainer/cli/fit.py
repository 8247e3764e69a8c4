"""`nearfar fit`: recipe in, model folder out, with the proof that it is better."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer.build import DataSets
    from trainer.evaluation.evaluate import SystemResult
    from trainer.models.dense import DenseEncoder
    from trainer.recipe import Recipe
    from trainer.runtime.run_folder import RunFolder


def fit(
    recipe: Annotated[Path, typer.Argument(help="recipe file, e.g. recipes/bi-encoder-lora.yaml", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(help="changes to it: key.sub=value", show_default=False)] = None,
    replace: Annotated[bool, typer.Option("--replace", help="move a former run of this name aside")] = False,
) -> None:
    """Train a model by a recipe; prints it against the base model and BM25 where there is a test set."""
    from trainer.errors import Interrupted
    from trainer.recipe_file import dump_recipe, load_recipe
    from trainer.runtime.run_folder import RunFolder, check_run_folder

    run = load_recipe(recipe, overrides or [])
    path = Path(run.output) / run.name
    check_run_folder(path, replace)  # a mistake up to here is answered before anything heavy is imported

    from trainer import build
    from trainer.data.fingerprint import fingerprint
    from trainer.runtime.trackers import check_trackers

    check_trackers(run.trackers)
    build.prepare_machine(run.machine)
    _say(f"reading {run.data.train}")
    data = build.data_sets(run.data, run.seed)
    build.check_objective(run, data.train)
    steps = build.total_steps(run.optimization, len(data.train))
    encoder = build.encoder_of(run)
    _say(_summary(run, data, encoder, steps))
    for name, held_out in (("validation", data.validation), ("test", data.test)):
        if held_out is not None and (seen := build.seen_in_training(data.train, held_out)):
            _say(f"warning: {seen:,} of {len(held_out.queries):,} {name} queries are training queries too; what is measured on them proves nothing")
    with RunFolder.create(path, dump_recipe(run), sys.argv, fingerprint(run.data, len(data.train)), replace) as folder:
        before = _evaluate_before(run, data, encoder)
        interrupted = _train(run, data, encoder, steps, folder)
        _say(f"the model is in {folder.model}")
        if not interrupted and data.test is not None:
            _evaluate_after(run, data, folder, before)
        folder.finish("stopped" if interrupted else "done")
        _report(folder)
        if interrupted:
            raise Interrupted(f"before the end, by Ctrl-C; the best weights so far are in {folder.model}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _summary(run: "Recipe", data: "DataSets", encoder: "DenseEncoder", steps: int) -> str:
    from trainer import build

    trained = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    everything = sum(parameter.numel() for parameter in encoder.parameters())
    test = f", {len(data.test.queries):,} test queries" if data.test else ""
    return (
        f"{run.name}: {len(data.train):,} training pairs, {len(data.validation.queries):,} validation queries{test}\n"
        f"{run.model.backbone}, {run.model.tuning.kind}: {trained:,} of {everything:,} weights are trained\n"
        f"{steps} steps of {run.optimization.batch_size} queries, {build.accelerator(run.machine)}, {build.precision(run.machine)}"
    )


def _evaluate_before(run: "Recipe", data: "DataSets", encoder: "DenseEncoder") -> "list[SystemResult]":
    """BM25 and the untrained encoder on the test queries; nothing without a test set."""
    if data.test is None:
        return []
    from trainer import build
    from trainer.evaluation.evaluate import evaluate, evaluate_bm25

    _say("measuring BM25 and the base model on the test queries")
    encoder.to(build.accelerator(run.machine))
    return [
        evaluate_bm25(data.test),
        evaluate(encoder, data.test, name="base", precision=build.precision(run.machine), micro_batch_tokens=build.micro_batch_tokens(run.machine)),
    ]


def _train(run: "Recipe", data: "DataSets", encoder: "DenseEncoder", steps: int, folder: "RunFolder") -> bool:
    """Trains, keeps the best weights, writes `model/`. True when Ctrl-C ended it early."""
    from trainer import build
    from trainer.models.folder import save_encoder
    from trainer.models.lora import check_adapter_learned
    from trainer.modules.bi_encoder import NonFiniteStep
    from trainer.runtime.best import KeepBest
    from trainer.runtime.run_folder import write_json
    from trainer.runtime.stop import GracefulStop

    module = build.bi_encoder(run, encoder, steps)
    best, stop = KeepBest(folder.checkpoints / "best"), GracefulStop()
    trainer = build.trainer(run, folder, steps, len(data.train), [best, stop])
    pairs = build.pair_data(run, data, encoder, steps)
    try:
        trainer.validate(module, datamodule=pairs, verbose=False)
        if not stop.interrupted:
            trainer.fit(module, datamodule=pairs)
        interrupted = stop.interrupted and trainer.global_step < steps
        if not interrupted and best.validated != trainer.global_step:
            trainer.validate(module, datamodule=pairs, verbose=False)
    except NonFiniteStep as error:
        write_json(folder.path / "non_finite.json", error.record)
        raise
    if best.restore(module):
        _say(f"best validation nDCG@10 {best.score:.3f} at step {best.step}, {best.base:.3f} before training")
        if best.score <= best.base:
            _say("warning: no validation was better than before training; the base model may serve you better than this one")
    if not interrupted:
        check_adapter_learned(encoder)
    save_encoder(encoder, folder.model)
    return interrupted


def _evaluate_after(run: "Recipe", data: "DataSets", folder: "RunFolder", before: "list[SystemResult]") -> None:
    """Measures the saved folder, as a user will load it, and prints the table, the paired test and three searches."""
    from rich.console import Console

    from trainer import build
    from trainer.evaluation.evaluate import compare, evaluate, write_evaluation
    from trainer.evaluation.table import comparison_lines, comparison_table, search_examples
    from trainer.models.dense import read_encoder

    assert data.test is not None
    how, tokens = build.precision(run.machine), build.micro_batch_tokens(run.machine)
    encoder = read_encoder(str(folder.model)).to(build.accelerator(run.machine))
    after = evaluate(encoder, data.test, name="fine-tuned", precision=how, micro_batch_tokens=tokens)
    evaluation = compare(data.test, "test", [*before, after])
    write_evaluation(evaluation, folder.evaluation_path)
    console = Console()
    console.print(comparison_table(evaluation))
    for line in comparison_lines(evaluation):
        console.print(line)
    console.print(search_examples(data.test, before[-1], after, count=3))


def _report(folder: "RunFolder") -> None:
    from trainer.report.html import write_report

    _say(f"report: {write_report(folder.path)}")
