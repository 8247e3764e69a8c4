"""`nearfar add`: documents into an index of token vectors, without building it anew."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.cli.index import model_of_index, progress, show, show_left_out


def add(
    index: Annotated[
        Path,
        typer.Argument(
            help="folder that `nearfar index` made with a late-interaction model",
            show_default=False,
        ),
    ],
    corpus: Annotated[
        Path,
        typer.Argument(
            help="JSON Lines, a .txt file, or a BEIR folder, as for `nearfar index`",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="where the index's model is now, if it was moved", show_default=False),
    ] = None,
    id_prefix: Annotated[
        str,
        typer.Option(
            help=(
                "put before the line's number, which is the id where a document has none, so that"
                " it is a new one"
            ),
            show_default=False,
        ),
    ] = "",
    max_bad_rows_ratio: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="exit with 87 when more lines are bad than this share"),
    ] = 0.001,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="as for `nearfar index`")
    ] = "fp32",
) -> None:
    """Add documents to an index of token vectors; none of them may be there already."""
    from trainer.build import hardware
    from trainer.data.readers.report import ReadReport
    from trainer.recipe import schema as recipe
    from trainer.retrieval.corpus import read_corpus
    from trainer.retrieval.token_index.build import Encoding
    from trainer.retrieval.token_index.build import add as add_documents
    from trainer.retrieval.token_index.manifest import LateManifest

    manifest = LateManifest.read(index)
    report = ReadReport(str(corpus))
    machine = recipe.Machine(precision=precision)
    encoder = model_of_index(index, manifest, model).to(hardware.accelerator(machine))
    encoding = Encoding(encoder, hardware.precision(machine), progress=progress)
    manifest = add_documents(
        index, encoding, read_corpus(corpus, report, max_bad_rows_ratio, id_prefix)
    )
    show_left_out(report)
    show(index, manifest)
