"""`nearfar mine`: hard negatives for training pairs."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from trainer.mining.choose import Options
    from trainer.mining.spaces import Progress, Space
    from trainer.mining.work import WorkFolder
    from trainer.models.encoder import Encoder
    from trainer.strategies.environment import Plan


def mine(
    model: Annotated[
        str, typer.Argument(help="folder or name of the model that searches", show_default=False)
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="training pairs: a file, a BEIR folder, a hub data set", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="folder of the negatives", show_default=False)
    ],
    teacher: Annotated[
        str | None,
        typer.Option(
            help=(
                "model of any kind, a cross-encoder too, that scores what was found, in place of"
                " the first"
            ),
            show_default=False,
        ),
    ] = None,
    negatives: Annotated[int, typer.Option(min=0, help="per query, of those the model finds")] = 7,
    bm25_negatives: Annotated[
        int, typer.Option(min=0, help="per query, of those that share words with it")
    ] = 0,
    random_negatives: Annotated[int, typer.Option(min=0, help="per query, any documents")] = 0,
    depth: Annotated[
        int, typer.Option(min=1, help="ranks that are looked at, known positives left out")
    ] = 100,
    skip_top: Annotated[int, typer.Option(min=0, help="ranks left out at the top")] = 0,
    pick: Annotated[
        Literal["top", "random"],
        typer.Option(help="of what is left the best, or any (the same for the same seed)"),
    ] = "top",
    percent_of_positive: Annotated[
        float,
        typer.Option(help="a negative scores at most this share of the positive; 0: no such limit"),
    ] = 95.0,
    margin: Annotated[
        float | None,
        typer.Option(
            help="a negative scores at least so much below the positive", show_default=False
        ),
    ] = None,
    relative_margin: Annotated[
        float | None,
        typer.Option(help="the same as a share of the positive's score", show_default=False),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="a negative scores at least this", show_default=False)
    ] = None,
    max_score: Annotated[
        float | None, typer.Option(help="a negative scores at most this", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of everything random")] = 0,
    split: Annotated[
        Literal["train", "dev", "test"], typer.Option(help="of a BEIR folder or hub data set")
    ] = "train",
    column: Annotated[
        list[str] | None,
        typer.Option(help="ROLE=NAME where a column is not recognised, e.g. --column query=title"),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="further documents to search: JSON Lines, a .txt file, or a BEIR folder",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report", help="write report.html too: counts, filters, suspected false negatives"
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="remove what another job left in the folder")
    ] = False,
    max_bad_rows_ratio: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="exit with 87 when more rows are bad than this share"),
    ] = 0.001,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="of the models; auto: bf16 where the hardware has it"),
    ] = "fp32",
) -> None:
    """Find hard negatives for training pairs, free of what may be right answers; stopped and
    started again, it goes on.
    """
    from trainer.data.readers.read import Split
    from trainer.errors import BadRecipe
    from trainer.mining.choose import Options
    from trainer.mining.work import WorkFolder
    from trainer.models.files.locate import locate
    from trainer.strategies.environment import check_here, plan_from_environment

    columns = dict(pair.partition("=")[::2] for pair in column or ())
    if not all(columns.values()):
        raise BadRecipe("--column wants ROLE=NAME, e.g. --column query=title")
    options = Options(
        negatives,
        bm25_negatives,
        random_negatives,
        depth,
        skip_top,
        pick,
        percent_of_positive,
        margin,
        relative_margin,
        min_score,
        max_score,
        seed,
    )
    for each in filter(None, (model, teacher)):
        locate(each)
    if teacher is not None and locate(teacher) == locate(model):
        raise BadRecipe(
            f"the teacher {teacher} is the model that searches, so its scores would be the same;"
            " leave --teacher out, or name another"
        )
    plan = plan_from_environment(os.environ)
    check_here(plan)
    wanted: Split = split
    source = {
        "data": data,
        "split": wanted,
        "columns": columns,
        "corpus": corpus,
        "max_bad_rows_ratio": max_bad_rows_ratio,
    }
    _on_ranks(plan, model, teacher, source, options, WorkFolder(out), replace, report, precision)


def _on_ranks(
    plan: "Plan",
    model: str,
    teacher: str | None,
    source: dict[str, Any],
    options: "Options",
    folder: "WorkFolder",
    replace: bool,
    page: bool,
    precision: Any,
) -> None:
    """The job on every rank: all encode, each searches its shards, the first alone reads the data,
    writes and speaks.
    """
    from contextlib import ExitStack

    from trainer.build import hardware
    from trainer.collectives import check_same, on_first, rank
    from trainer.mining.mine import mine as run
    from trainer.mining.spaces import space_of
    from trainer.mining.task import read_task
    from trainer.mining.teacher import by_cross_encoder, of_texts
    from trainer.mining.work import held
    from trainer.models.cross_encoder import CrossEncoder
    from trainer.models.families import read_any, read_model
    from trainer.recipe import schema as recipe
    from trainer.strategies.process_group import process_group

    machine = recipe.Machine(
        precision=plan.precision or precision, accelerator=plan.accelerator or "auto"
    )
    hardware.prepare_machine(machine)
    with process_group(plan, hardware.accelerator(machine)), ExitStack() as stack:
        check_same(f"{model} {teacher} {source} {options}", "command")
        on_first(lambda: stack.enter_context(held(folder.path)))
        how = hardware.precision(machine)
        manifest = (
            on_first(lambda: _begin(folder, model, teacher, source, options, how, replace)) or {}
        )
        if folder.is_done:
            _say(f"{folder.path} holds this job, finished")
        else:
            task = read_task(folder.work)
            _say(f"{len(task.queries):,} queries, {len(task.documents):,} documents")

            def space(encoder: "Encoder", place: str) -> "Space":
                return space_of(
                    encoder, task, folder.work / place, precision=how, progress=_progress()
                )

            second = read_any(teacher).to(hardware.device(machine)) if teacher else None
            joint = isinstance(second, CrossEncoder)
            scorer = (
                of_texts(by_cross_encoder(second, how), task)  # type: ignore[arg-type]
                if joint
                else space(second, "teacher")
                if second
                else None
            )
            first = read_model(model).to(hardware.device(machine))
            run(
                folder,
                manifest,
                task,
                space(first, "model"),
                options,
                scorer,
                _progress() if rank() == 0 else None,
            )
        on_first(lambda: _show(folder, page))


def _begin(
    folder: "WorkFolder",
    model: str,
    teacher: str | None,
    source: dict[str, Any],
    options: "Options",
    precision: str,
    replace: bool,
) -> dict[str, Any]:
    """The manifest of the job, which `folder` has been made ready for: its texts are in the work
    folder.
    """
    from dataclasses import asdict

    from trainer.data.fingerprint import fingerprint_of
    from trainer.data.readers.read import read_rows
    from trainer.mining.task import corpus_texts, is_written, write_task
    from trainer.models.files.locate import locate

    for each in (source["data"], source["corpus"]):
        folder.check_apart(each)
    manifest = {
        "model": fingerprint_of(str(locate(model))),
        "teacher": fingerprint_of(str(locate(teacher))) if teacher else None,
        "data": (
            fingerprint_of(source["data"])
            | {
                "split": source["split"],
                "columns": source["columns"],
            }
        ),
        "corpus": fingerprint_of(source["corpus"]) if source["corpus"] else None,
        "options": asdict(options),
        "precision": precision,
    }
    folder.begin(manifest, replace)
    if not folder.is_done and not is_written(folder.work):
        _say(f"reading {source['data']}")
        rows = read_rows(
            source["data"], source["columns"], source["split"], source["max_bad_rows_ratio"]
        )
        write_task(
            folder.work,
            rows,
            corpus_texts([source["data"]], rows, source["corpus"], source["max_bad_rows_ratio"]),
        )
    return manifest


def _show(folder: "WorkFolder", page: bool) -> None:
    """What came of it, in a few lines; and the page where it is asked for."""
    import json

    from trainer.mining.work import NEGATIVES, WITHOUT

    found = json.loads(folder.report_path.read_text(encoding="utf-8"))
    negatives = sum(found["negatives"].values())
    print(
        f"{folder.path / NEGATIVES}: {found['pairs_written']:,} pairs with"
        f" {negatives / max(1, found['queries'] - found['queries_without_negatives']):.1f}"
        " negatives a query"
    )
    removed = ", ".join(f"{count:,} by {name}" for name, count in found["removed"].items() if count)
    print(
        f"removed of {sum(found['candidates'].values()):,} candidates in range: {removed or 'none'}"
    )
    suspected = found["suspected"]
    print(
        f"suspected false negatives: {suspected['candidates']:,} candidates of"
        f" {suspected['queries']:,} queries score above the positive, {suspected['written']:,} were"
        " written"
    )
    if found["queries_without_negatives"]:
        print(
            f"{found['queries_without_negatives']:,} queries have none left and are not written;"
            f" {folder.path / WITHOUT} names them and says why"
        )
    if page:
        from trainer.report.mining_page import write_mining_page

        print(f"report: {write_mining_page(folder.report_path)}")


def _progress() -> "Progress":
    import time

    last = [0.0]

    def show(what: str, done: int, everything: int) -> None:
        from trainer.collectives import rank

        if rank() == 0 and time.monotonic() - last[0] >= 5:
            last[0] = time.monotonic()
            print(f"{done:,} of {everything:,} {what}", file=sys.stderr, flush=True)

    return show


def _say(text: str) -> None:
    from trainer.collectives import rank

    if rank() == 0:
        print(text, file=sys.stderr, flush=True)
