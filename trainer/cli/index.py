"""`nearfar index`, `add` and `delete`: build the index of a corpus and change it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.cli import terminal
from trainer.cli.options import shared

_BITS: dict[str, Literal[1, 2, 4]] = {"1": 1, "2": 2, "4": 4}

CorpusOrImages = Annotated[
    Path,
    typer.Argument(
        metavar="CORPUS",
        help=(
            "JSON Lines, CSV, TSV, Parquet or Arrow with a column `text` (optional: `_id` and"
            " `title`), a .txt file with one document per line, or a folder in BEIR layout. For a"
            " model of images: a folder of image files, a folder with corpus.parquet, or a table"
            " with a column `image` of paths or bytes"
        ),
        show_default=False,
    ),
]
OutFolder = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="FOLDER", help="folder of the index", show_default=False),
]
Kind = Annotated[
    Literal["flat", "hnsw", "ivf", "compressed", "exact", "inverted"] | None,
    typer.Option(
        "--kind",
        help=(
            "for a model of one vector per document: flat (default) searches exactly; hnsw and ivf"
            " find about 95 % of the same documents and are faster from about 100,000 documents"
            " on. For a model of one vector per token: compressed (default) or exact. For a sparse"
            " model: inverted"
        ),
        show_default=False,
    ),
]
Bits = Annotated[
    Literal["1", "2", "4"] | None,
    typer.Option(
        "--bits",
        help="compressed indexes only: bits per vector component, overhead included (default 2)",
        show_default=False,
    ),
]
PoolFactor = Annotated[
    int | None,
    typer.Option(
        "--pool-factor",
        min=1,
        metavar="N",
        help=(
            "token indexes only: merge each document's most similar token vectors until 1/N remain"
            " (default 1)"
        ),
        show_default=False,
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="replace the index that is in the folder")]
Index = Annotated[
    Path,
    typer.Argument(
        metavar="INDEX",
        help="folder that `nearfar index` wrote; all views in it are changed together",
        show_default=False,
    ),
]
ReplaceDocuments = Annotated[
    bool, typer.Option("--replace", help="replace documents of the index that have the same ids")
]
IdPrefix = Annotated[
    str,
    typer.Option(
        "--id-prefix",
        metavar="TEXT",
        help=(
            "a document without an id gets TEXT and its line number as id; choose TEXT so that no"
            " such id is in the index"
        ),
        show_default=False,
    ),
]
Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="ids of the documents to delete", show_default=False),
]


def index(
    model: shared.ModelName,
    corpus: CorpusOrImages,
    out: OutFolder,
    kind: Kind = None,
    bits: Bits = None,
    pool_factor: PoolFactor = None,
    replace: Replace = False,
    max_bad_rows_ratio: shared.MaxBadRowsRatio = 0.001,
    dimensions: shared.Dimensions = None,
    layers: shared.Layers = None,
    precision: shared.PrecisionName = "fp32",
    view: shared.ViewName = None,
) -> None:
    """Encode a corpus and write an index folder for `nearfar search`."""
    with terminal.loading_libraries():
        from trainer.retrieval.indexes.index_corpus import IndexSettings, index_corpus

    summary = index_corpus(
        model,
        corpus,
        out,
        IndexSettings(kind, _BITS[bits] if bits else None, pool_factor),
        layers=layers,
        dimensions=dimensions,
        precision=precision,
        replace=replace,
        max_bad_rows_ratio=max_bad_rows_ratio,
        view=view,
    )
    terminal.tell_left_out(summary.left_out)
    print(summary)


def add(
    index: Index,
    corpus: CorpusOrImages,
    model: shared.IndexModel = None,
    id_prefix: IdPrefix = "",
    replace: ReplaceDocuments = False,
    max_bad_rows_ratio: shared.MaxBadRowsRatio = 0.001,
    precision: shared.PrecisionName = "fp32",
) -> None:
    """Add documents to an index. Without --replace, their ids must not be in the index already."""
    with terminal.loading_libraries():
        from trainer.retrieval.changes.change import add_documents

    summaries = add_documents(
        index,
        corpus,
        model=model,
        id_prefix=id_prefix,
        precision=precision,
        max_bad_rows_ratio=max_bad_rows_ratio,
        replace=replace,
    )
    terminal.tell_left_out(summaries[0].left_out)
    for summary in summaries:
        print(summary)


def delete(index: Index, ids: Ids) -> None:
    """Delete documents from an index. If one id is not in the index, none is deleted."""
    with terminal.loading_libraries():
        from trainer.retrieval.changes.change import delete_documents

    for summary in delete_documents(index, ids):
        print(summary)
