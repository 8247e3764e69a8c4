"""`nearfar index`: a corpus made searchable."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def index(
    model: Annotated[str, typer.Argument(help="folder or name of a model", show_default=False)],
    corpus: Annotated[
        Path, typer.Argument(help="JSON Lines with a field text (_id and title if there), a .txt file, or a BEIR folder", show_default=False)
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="folder of the index", show_default=False)],
    kind: Annotated[
        Literal["flat", "hnsw", "ivf"], typer.Option(help="flat is exact; hnsw and ivf find about 95 % of it, faster from some 100 000 documents on")
    ] = "flat",
    replace: Annotated[bool, typer.Option("--replace", help="take the place of the index that is there")] = False,
    max_bad_rows_ratio: Annotated[float, typer.Option(min=0.0, max=1.0, help="exit with 87 when more lines are bad than this share")] = 0.001,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="bf16 is faster and moves the third digit; auto: where the hardware has it")
    ] = "fp32",
) -> None:
    """Encode a corpus and write an index folder for `nearfar search`."""
    import sys

    from trainer import build, recipe
    from trainer.data.read_report import ReadReport
    from trainer.models.dense import read_encoder
    from trainer.retrieval.corpus import read_corpus
    from trainer.retrieval.index import build_index
    from trainer.retrieval.manifest import check_index_folder

    def progress(done: int, everything: int) -> None:
        print(f"{done:,} of {everything:,} documents encoded", file=sys.stderr, flush=True)

    check_index_folder(out, replace)
    report = ReadReport(str(corpus))
    documents = read_corpus(corpus, report, max_bad_rows_ratio)
    machine = recipe.Machine(precision=precision)
    encoder = read_encoder(model).to(build.accelerator(machine))
    name = str(Path(model).resolve()) if Path(model).exists() else model
    manifest = build_index(encoder, name, documents, out, kind, replace, build.precision(machine), progress=progress)
    for what, count in {
        "blank documents": report.blank_rows_dropped,
        "documents with an id seen before": report.duplicate_ids,
        "unreadable lines": report.bad_count,
    }.items():
        if count:
            print(f"left out: {count:,} {what}", file=sys.stderr)
    settings = ", ".join(f"{setting} {value:g}" for setting, value in manifest.approximate.items())
    print(f"{out}: {manifest.count:,} documents, {kind}, {manifest.dimensions} dimensions" + (f", {settings}" if settings else ""))
