"""`nearfar index`: a corpus made searchable."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from trainer.data.readers.report import ReadReport
    from trainer.models.encoder import Encoder
    from trainer.retrieval.indexes.manifest import AnyManifest
    from trainer.retrieval.token_index.manifest import LateManifest

FLAT_KINDS, TOKEN_KINDS = ("flat", "hnsw", "ivf"), ("compressed", "exact")


def index(
    model: Annotated[str, typer.Argument(help="folder or name of a model", show_default=False)],
    corpus: Annotated[
        Path,
        typer.Argument(
            help=(
                "JSON Lines with a field text (_id and title if there), a .txt file, or a BEIR"
                " folder"
            ),
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="folder of the index", show_default=False)
    ],
    kind: Annotated[
        Literal["flat", "hnsw", "ivf", "exact", "compressed"] | None,
        typer.Option(
            help=(
                "one vector a document: flat (exact, the default), hnsw and ivf (about 95 % of it,"
                " faster from some 100 000 documents on); "
                "one a token: compressed (the default) or exact"
            ),
            show_default=False,
        ),
    ] = None,
    bits: Annotated[
        Literal["1", "2", "4"] | None,
        typer.Option(
            help="of compressed: for each number of a vector, everything counted; 2 if not given",
            show_default=False,
        ),
    ] = None,
    pool_factor: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=(
                "of one vector a token: keep one in so many, the most similar of a document"
                " made one"
            ),
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="take the place of the index that is there")
    ] = False,
    max_bad_rows_ratio: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="exit with 87 when more lines are bad than this share"),
    ] = 0.001,
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="use only the first so many numbers of each vector, as matryoshka trains them",
            show_default=False,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="use only the first so many layers, as matryoshka trains them",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(
            help="bf16 is faster and moves the third digit; auto: where the hardware has it"
        ),
    ] = "fp32",
) -> None:
    """Encode a corpus and write an index folder for `nearfar search`."""
    from trainer.build import hardware
    from trainer.data.readers.report import ReadReport
    from trainer.errors import BadRecipe
    from trainer.models.cut import read_cut
    from trainer.models.late_interaction import LateInteractionEncoder
    from trainer.recipe import schema as recipe
    from trainer.retrieval.corpus import read_corpus
    from trainer.retrieval.indexes.dense import build_index
    from trainer.retrieval.indexes.place import check_index_folder
    from trainer.retrieval.token_index.build import Encoding, build_late_index

    check_index_folder(out, replace)
    report = ReadReport(str(corpus))
    documents = read_corpus(corpus, report, max_bad_rows_ratio)
    machine = recipe.Machine(precision=precision)
    encoder = read_cut(model, layers, dimensions).to(hardware.accelerator(machine))
    kinds = TOKEN_KINDS if isinstance(encoder, LateInteractionEncoder) else FLAT_KINDS
    if kind is not None and kind not in kinds:
        raise BadRecipe(
            f"--kind {kind} is not for {model}, a model of one vector"
            f" {'a token' if kinds is TOKEN_KINDS else 'a document'}: {', '.join(kinds)}"
        )
    if bits is not None and (kinds is not TOKEN_KINDS or kind == "exact"):
        raise BadRecipe(
            "--bits is for the compressed kind of a late-interaction model's index; the others keep"
            " every number whole"
        )
    if pool_factor is not None and kinds is not TOKEN_KINDS:
        raise BadRecipe(
            f"--pool-factor is for models of one vector a token, and {model} has one vector a"
            " document"
        )
    name = str(Path(model).resolve()) if Path(model).exists() else model
    if isinstance(encoder, LateInteractionEncoder):
        encoding = Encoding(encoder, hardware.precision(machine), progress=progress)
        token_kind: Literal["exact", "compressed"] = "exact" if kind == "exact" else "compressed"
        bits_each = {"1": 1, "2": 2, "4": 4}[bits or "2"]
        late = build_late_index(
            encoding,
            name,
            documents,
            out,
            token_kind,
            bits_each,  # type: ignore[arg-type]
            pool_factor or 1,
            replace,
            layers,
        )
        show_left_out(report)
        show(out, late)
        return
    how = hardware.precision(machine)
    manifest = build_index(
        encoder,  # type: ignore[arg-type]
        name,
        documents,
        out,
        kind or "flat",  # type: ignore[arg-type]
        replace,
        how,
        progress=progress,
        layers=layers,
    )
    show_left_out(report)
    settings = ", ".join(f"{setting} {value:g}" for setting, value in manifest.approximate.items())
    print(
        f"{out}: {manifest.count:,} documents, {manifest.kind}, {manifest.dimensions} dimensions"
        + (f", {settings}" if settings else "")
    )


def model_of_index(
    index: Path,
    manifest: "AnyManifest",
    given: str | None,
    layers: int | None = None,
    dimensions: int | None = None,
) -> "Encoder":
    """The model of an index, from where it was or from where it is said to be: `layers` of it, or
    as many as the index was made with. Raises BadModel.
    """
    from trainer.errors import BadModel
    from trainer.models.cut import read_cut

    try:
        return read_cut(given or manifest.model, layers or manifest.layers, dimensions)
    except BadModel as error:
        if not given:
            raise BadModel(
                f"{error}; the index {index} was made with {manifest.made_with}: if it was moved,"
                " say where it is now with --model"
            ) from error
        if layers is not None or manifest.layers is None:
            raise
        raise BadModel(
            f"{error}; the index {index} was made with {manifest.made_with}: give that model"
        ) from error


def progress(done: int, everything: int) -> None:
    """Says on standard error how far the encoding is."""
    import sys

    print(f"{done:,} of {everything:,} documents encoded", file=sys.stderr, flush=True)


def show_left_out(report: "ReadReport") -> None:
    """Says on standard error what of a corpus was left out."""
    import sys

    for what, count in {
        "blank documents": report.blank_rows_dropped,
        "documents with an id seen before": report.duplicate_ids,
        "unreadable lines": report.bad_count,
    }.items():
        if count:
            print(f"left out: {count:,} {what}", file=sys.stderr)


def show(folder: Path, manifest: "LateManifest") -> None:
    """One line on an index of token vectors."""
    share = (
        manifest.share_of_float16
    )  # above 1 for a few documents: the centroids and the books are as large as for many
    size = f"{manifest.search_bytes / 1e6:,.1f} MB, " + (
        f"1/{1 / share:.1f} of float16" if share <= 1 else f"{share:,.1f} times float16"
    )
    print(
        f"{folder}: {manifest.count:,} documents, {manifest.kind}, {manifest.tokens:,} vectors of"
        f" {manifest.dimensions} dimensions, {size}"
    )
