"""`nearfar index`, `add` and `delete`: a corpus made searchable, and the index changed."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from trainer.cli import options, terminal

_BITS: dict[str, Literal[1, 2, 4]] = {"1": 1, "2": 2, "4": 4}

OutFolder = Annotated[
    Path,
    typer.Option("-o", "--out", metavar="FOLDER", help="folder of the index", show_default=False),
]
Kind = Annotated[
    Literal["flat", "hnsw", "ivf", "compressed", "exact"] | None,
    typer.Option(
        "--kind",
        help=(
            "for a model of one vector per document: flat (default) searches exactly; hnsw and ivf"
            " find about 95 % of the same documents and are faster from about 100,000 documents"
            " on. For a model of one vector per token: compressed (default) or exact"
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
TokenIndex = Annotated[
    Path,
    typer.Argument(
        metavar="INDEX",
        help="folder that `nearfar index` made with a late-interaction model",
        show_default=False,
    ),
]
IdPrefix = Annotated[
    str,
    typer.Option(
        "--id-prefix",
        metavar="TEXT",
        help=(
            "a document without an id gets TEXT and its line number as id; choose TEXT so that it"
            " differs from all ids in the index"
        ),
        show_default=False,
    ),
]
Ids = Annotated[
    list[str],
    typer.Argument(metavar="ID", help="ids of the documents to delete", show_default=False),
]


def index(
    model: options.ModelName,
    corpus: options.CorpusFile,
    out: OutFolder,
    kind: Kind = None,
    bits: Bits = None,
    pool_factor: PoolFactor = None,
    replace: Replace = False,
    max_bad_rows_ratio: options.MaxBadRowsRatio = 0.001,
    dimensions: options.Dimensions = None,
    layers: options.Layers = None,
    precision: options.PrecisionName = "fp32",
) -> None:
    """Encode a corpus and write an index folder for `nearfar search`."""
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
        progress=terminal.progress_of("documents encoded"),
    )
    terminal.tell_left_out(summary.left_out)
    print(summary)


def add(
    index: TokenIndex,
    corpus: options.CorpusFile,
    model: options.IndexModel = None,
    id_prefix: IdPrefix = "",
    max_bad_rows_ratio: options.MaxBadRowsRatio = 0.001,
    precision: options.PrecisionName = "fp32",
) -> None:
    """Add documents to an index of token vectors. None of their ids may be in it already."""
    from trainer.retrieval.indexes.index_corpus import add_documents

    summary = add_documents(
        index,
        corpus,
        model=model,
        id_prefix=id_prefix,
        precision=precision,
        max_bad_rows_ratio=max_bad_rows_ratio,
        progress=terminal.progress_of("documents encoded"),
    )
    terminal.tell_left_out(summary.left_out)
    print(summary)


def delete(index: TokenIndex, ids: Ids) -> None:
    """Delete documents from an index of token vectors: all of them, or none where an id is not in
    the index.
    """
    from trainer.retrieval.indexes.index_corpus import delete_documents

    print(delete_documents(index, ids))
