"""Indexes by the names of models and files: a corpus indexed, documents added and deleted."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.data.readers.report import ReadReport
from trainer.errors import BadModel, BadRecipe
from trainer.models.cut import read_cut
from trainer.models.encoder import Encoder
from trainer.models.late_interaction import LateInteractionEncoder
from trainer.retrieval.corpus import read_corpus
from trainer.retrieval.indexes.dense import build_index
from trainer.retrieval.indexes.manifest import TOKEN_KINDS, AnyManifest, Manifest
from trainer.retrieval.indexes.place import check_index_folder
from trainer.retrieval.token_index import build as token_index
from trainer.retrieval.token_index.manifest import Bits, LateManifest
from trainer.strategies import devices

DOCUMENT_KINDS = ("flat", "hnsw", "ivf")
IndexKind = Literal["flat", "hnsw", "ivf", "compressed", "exact"]
Wish = devices.Precision | Literal["auto"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class IndexSettings:
    """How an index stores its vectors; None stands for the default of the model's family."""

    kind: IndexKind | None = None
    """For one vector per document `flat` (the default), `hnsw` or `ivf`; for one vector per token
    `compressed` (the default) or `exact`.
    """
    bits: Bits | None = None
    """Compressed indexes only: bits per vector component, overhead included (default 2)."""
    pool_factor: int | None = None
    """Token indexes only: merge each document's most similar token vectors until 1/N remain
    (default 1).
    """

    def check(self, model: str, encoder: Encoder) -> None:
        """Raises BadRecipe for a setting that an index of this model cannot have."""
        has_token_vectors = isinstance(encoder, LateInteractionEncoder)
        unit = "token" if has_token_vectors else "document"
        kinds = TOKEN_KINDS if has_token_vectors else DOCUMENT_KINDS
        if self.kind is not None and self.kind not in kinds:
            raise BadRecipe(
                f"--kind {self.kind} is not for {model}, which gives one vector per {unit}; its"
                f" kinds are {', '.join(kinds)}"
            )
        if self.bits is not None and (not has_token_vectors or self.kind == "exact"):
            raise BadRecipe(
                "--bits is for a compressed index of token vectors; every other kind keeps each"
                " vector as it is. Leave --bits out"
            )
        if self.pool_factor is not None and not has_token_vectors:
            raise BadRecipe(
                f"--pool-factor merges token vectors, and {model} gives one vector per document;"
                " leave --pool-factor out"
            )


@dataclass(frozen=True, repr=False)
class IndexSummary:
    """An index as it was written. It prints as one line."""

    folder: Path
    manifest: Manifest | LateManifest
    left_out: dict[str, int]
    """What of the corpus was left out, and how many of it."""

    def __repr__(self) -> str:
        return f"{self.folder}: {self.manifest.summary}"


def index_corpus(
    model: str,
    corpus: Path,
    out: Path,
    settings: IndexSettings | None = None,
    *,
    layers: int | None = None,
    dimensions: int | None = None,
    precision: Wish = "fp32",
    replace: bool = False,
    max_bad_rows_ratio: float = 0.001,
    progress: Progress = lambda count, total: None,
) -> IndexSummary:
    """Encodes a corpus and writes its index to the folder `out`.

    `progress` is called with the number of encoded documents and of all. Raises BadFolder when
    `out` holds something (with `replace`: something other than an index), BadRecipe for a setting
    that the model's index cannot have.
    """
    settings = settings or IndexSettings()
    check_index_folder(out, replace)
    report = ReadReport(str(corpus))
    documents = read_corpus(corpus, report, max_bad_rows_ratio)
    accelerator = devices.find_accelerator()
    numbers = devices.choose_precision(precision, accelerator)
    encoder = read_cut(model, layers, dimensions).to(accelerator)
    settings.check(model, encoder)
    name = str(Path(model).resolve()) if Path(model).exists() else model
    kind: Any = settings.kind or (
        "compressed" if isinstance(encoder, LateInteractionEncoder) else "flat"
    )
    manifest: Manifest | LateManifest
    if isinstance(encoder, LateInteractionEncoder):
        encoding = token_index.Encoding(encoder, numbers, progress=progress)
        bits, factor = settings.bits or 2, settings.pool_factor or 1
        manifest = token_index.build_late_index(
            encoding, name, documents, out, kind, bits, factor, replace, layers
        )
    else:
        dense: Any = encoder
        manifest = build_index(
            dense, name, documents, out, kind, replace, numbers, progress=progress, layers=layers
        )
    return IndexSummary(out, manifest, _left_out(report))


def add_documents(
    index: Path,
    corpus: Path,
    *,
    model: str | None = None,
    id_prefix: str = "",
    precision: Wish = "fp32",
    max_bad_rows_ratio: float = 0.001,
    progress: Progress = lambda count, total: None,
) -> IndexSummary:
    """Adds the documents of a corpus to an index of token vectors.

    `model` says where the model of the index is now, if it was moved. Raises BadData when an id is
    in the index already.
    """
    manifest = LateManifest.read(index)
    report = ReadReport(str(corpus))
    accelerator = devices.find_accelerator()
    encoder = model_of_index(index, manifest, model).to(accelerator)
    encoding = token_index.Encoding(
        encoder, devices.choose_precision(precision, accelerator), progress=progress
    )
    documents = read_corpus(corpus, report, max_bad_rows_ratio, id_prefix)
    manifest = token_index.add(index, encoding, documents)
    return IndexSummary(index, manifest, _left_out(report))


def delete_documents(index: Path, ids: Iterable[str]) -> IndexSummary:
    """Deletes documents from an index of token vectors: all of them, or none where an id is not in
    the index.
    """
    return IndexSummary(index, token_index.delete(index, ids), {})


def model_of_index(
    index: Path,
    manifest: AnyManifest,
    model: str | None = None,
    layers: int | None = None,
    dimensions: int | None = None,
) -> Encoder:
    """The model of an index, read from where it was, or from `model` if it was moved: the first
    `layers` of it, or as many as the index was made with. Raises BadModel.
    """
    try:
        return read_cut(model or manifest.model, layers or manifest.layers, dimensions)
    except BadModel as error:
        if not model:
            raise BadModel(
                f"{error}; the index {index} was made with {manifest.made_with}: if it was moved,"
                " say where it is now with --model"
            ) from error
        if layers is not None or manifest.layers is None:
            raise
        raise BadModel(
            f"{error}; the index {index} was made with {manifest.made_with}: give that model"
        ) from error


def _left_out(report: ReadReport) -> dict[str, int]:
    counts = {
        "blank documents": report.blank_rows_dropped,
        "documents whose id occurred before": report.duplicate_ids,
        "unreadable lines": report.bad_count,
    }
    return {name: count for name, count in counts.items() if count}
