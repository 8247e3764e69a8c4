"""Builds indexes, given the names of models and files.

A new kind of vectors needs a new format: its own files and one line in `FORMATS`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.data.readers.corpus import Document, read_corpus
from trainer.data.readers.image_corpus import read_image_corpus
from trainer.data.readers.report import ReadReport
from trainer.errors import BadFolder, BadModel, BadRecipe
from trainer.models.cut import read_cut
from trainer.models.encoder import VectorEncoder
from trainer.progress import phase
from trainer.retrieval.encoding.encode import Encoding
from trainer.retrieval.indexes.dense import DenseIndex, build_dense_index
from trainer.retrieval.indexes.index import OUTPUTS, Index, IndexManifest, Unit
from trainer.retrieval.indexes.manifest import read_content
from trainer.retrieval.indexes.place import check_index_folder
from trainer.retrieval.indexes.sparse import SparseIndex, build_sparse_index
from trainer.retrieval.indexes.views import (
    VIEWS,
    check_together,
    mark_views,
    place_of_view,
    same_documents,
    unchanged_views,
    views_of,
)
from trainer.retrieval.token_index import build as token_index
from trainer.retrieval.token_index.index import TokenIndex
from trainer.retrieval.token_index.manifest import Bits
from trainer.storage.atomic import folder_state
from trainer.strategies import devices

IndexKind = Literal["flat", "hnsw", "ivf", "compressed", "exact", "inverted"]
_TRIES = 10
Wish = devices.Precision | Literal["auto"]


@dataclass(frozen=True)
class IndexFormat:
    """The format in which an index folder stores vectors of one kind."""

    kinds: tuple[IndexKind, ...]
    """The first is the default."""
    open: Callable[[Path], Index]
    build: Callable[..., IndexManifest]
    """`build_dense_index`, or a function with the same first arguments."""


FORMATS: dict[Unit, IndexFormat] = {
    "text": IndexFormat(("flat", "hnsw", "ivf"), DenseIndex.open, build_dense_index),
    "token": IndexFormat(("compressed", "exact"), TokenIndex.open, token_index.build_token_index),
    "term": IndexFormat(("inverted",), SparseIndex.open, build_sparse_index),
}
"""The formats by the kind of vectors that a model gives (`Vectors.UNIT`)."""


def open_index(folder: Path) -> Index:
    """Opens the index in `folder`, of any format. Raises BadFolder when it is not a whole index."""
    kind = read_content(Path(folder)).get("kind")
    if kind == VIEWS:
        views = views_of(folder)
        if not views:
            raise BadFolder(f"{folder} holds no view yet; build one with `nearfar index --view`")
        raise BadFolder(
            f"{folder} holds the views {', '.join(views)}; search one with --view NAME, or all with"
            f" --hybrid. Where these options are not, give a view's folder: {min(views.values())}"
        )
    for index_format in FORMATS.values():
        if kind in index_format.kinds:
            return index_format.open(folder)
    return FORMATS["text"].open(folder)  # it raises the right error


def open_together(folders: Sequence[Path]) -> list[Index]:
    """Opens an index, or several views of a folder, in a state in which they belong together.

    If another process changes them meanwhile, they are opened again. Raises BadFolder as
    `open_index` and `check_together` do, and when they change at each try.
    """
    for _ in range(_TRIES):
        states = _parents(folders)
        try:
            indexes = [open_index(folder) for folder in folders]
            check_together(indexes)
        except BadFolder:
            if states == _parents(folders):
                raise
        else:
            if states == _parents(folders):
                return indexes
    raise BadFolder(
        f"another process changed {folders[0].parent} each of the {_TRIES} times that it was"
        " opened; try again after those changes"
    )


def _parents(folders: Sequence[Path]) -> list[tuple[int, ...]]:
    """Returns numbers that differ after a change of all views."""
    return [(folder_state(folder.parent) or ())[:2] for folder in folders]


@dataclass(frozen=True)
class IndexSettings:
    """How an index stores its vectors; None stands for the default of the model's family."""

    kind: IndexKind | None = None
    """For one vector per document `flat` (the default), `hnsw` or `ivf`; for one vector per token
    `compressed` (the default) or `exact`, for one sparse vector per document `inverted`.
    """
    bits: Bits | None = None
    """Compressed indexes only: bits per vector component, overhead included (default 2)."""
    pool_factor: int | None = None
    """Token indexes only: merge each document's most similar token vectors until 1/N remain
    (default 1).
    """

    @property
    def token_settings(self) -> dict[str, int]:
        """The settings of token indexes that are given."""
        values = {"bits": self.bits, "pool_factor": self.pool_factor}
        return {name: value for name, value in values.items() if value is not None}

    def check(self, model: str, encoder: VectorEncoder) -> None:
        """Raises BadRecipe for a setting that an index of this model cannot have."""
        unit = encoder.vectors.UNIT
        has_token_vectors, kinds = unit == "token", FORMATS[unit].kinds
        if self.kind is not None and self.kind not in kinds:
            raise BadRecipe(
                f"--kind {self.kind} is not for {model}, which gives {OUTPUTS[unit]}; its kinds are"
                f" {', '.join(kinds)}"
            )
        if self.bits is not None and (not has_token_vectors or self.kind == "exact"):
            raise BadRecipe(
                "--bits is for a compressed index of token vectors; every other kind keeps each"
                " vector as it is. Leave --bits out"
            )
        if self.pool_factor is not None and not has_token_vectors:
            raise BadRecipe(
                f"--pool-factor merges token vectors, and {model} gives {OUTPUTS[unit]};"
                " leave --pool-factor out"
            )


@dataclass(frozen=True, repr=False)
class IndexSummary:
    """An index that was written. It prints as one line."""

    folder: Path
    manifest: IndexManifest
    left_out: dict[str, int]
    """The number of documents and lines that were left out, by reason."""

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
    view: str | None = None,
) -> IndexSummary:
    """Encodes a corpus and writes its index to the folder `out`, or there as the view `view`.

    A model of images needs a corpus of images (`read_image_corpus`). Raises BadFolder when `out`
    holds something (with `replace`: something other than an index), BadRecipe for a setting that
    the model's index cannot have, BadData when other views have other documents.
    """
    settings = settings or IndexSettings()
    with _place(out, view) as place:
        check_index_folder(place, replace)
        report = ReadReport(str(corpus))
        encoding = _load(model, layers, dimensions, precision)
        encoder = encoding.encoder
        settings.check(model, encoder)
        read = read_image_corpus if encoder.encodes_images else read_corpus
        documents = read(corpus, report, max_bad_rows_ratio)
        if view is not None:
            other_views = [path for name, path in views_of(out).items() if name != view]
            documents = _compare(documents, other_views, encoder.encodes_images)
            mark_views(out)
        name = str(Path(model).resolve()) if Path(model).exists() else model
        index_format = FORMATS[encoder.vectors.UNIT]
        manifest = index_format.build(
            encoding,
            name,
            documents,
            place,
            settings.kind or index_format.kinds[0],
            replace=replace,
            layers=layers,
            **settings.token_settings,
        )
        return IndexSummary(place, manifest, left_out_of(report, encoder.encodes_images))


@contextmanager
def _place(folder: Path, view: str | None) -> Iterator[Path]:
    """Context with the folder of an index; while a view is built, the others do not change."""
    if view is None:
        yield folder
        return
    with unchanged_views(folder):
        yield place_of_view(folder, view)


def _load(model: str, layers: int | None, dimensions: int | None, precision: Wish) -> Encoding:
    accelerator = devices.find_accelerator()
    numbers = devices.choose_precision(precision, accelerator)
    with phase("loading the model"):
        encoder = read_cut(model, layers, dimensions, allow_images=True).to(accelerator)
    return Encoding(encoder, numbers)


def _compare(
    documents: Iterator[Document], views: Iterable[Path], has_images: bool
) -> Iterator[Document]:
    """Returns the documents, compared with those of one of the views: if possible, one that has
    images, or texts, as well.
    """
    indexes = sorted(map(open_index, views), key=lambda view: view.has_images != has_images)
    return same_documents(indexes[0], documents, has_images) if indexes else documents


def model_of_index(
    index: Path,
    manifest: IndexManifest,
    model: str | None = None,
    layers: int | None = None,
    dimensions: int | None = None,
) -> VectorEncoder:
    """Reads the model of an index, or `model` if the model was moved.

    Only the first `layers` are read (default: as many as the index was made with). Raises BadModel.
    """
    try:
        name = model or manifest.model
        return read_cut(name, layers or manifest.layers, dimensions, allow_images=True)
    except BadModel as error:
        if not model:
            raise BadModel(
                f"{error}; the index {index} was made with {manifest.made_with}: if it was moved,"
                " give its new place with --model"
            ) from error
        if layers is not None or manifest.layers is None:
            raise
        raise BadModel(
            f"{error}; the index {index} was made with {manifest.made_with}: give that model"
        ) from error


def left_out_of(report: ReadReport, by_reason: bool = False) -> dict[str, int]:
    """Returns how many documents and lines of a corpus were left out, by reason; with `by_reason`,
    also why lines could not be used.
    """
    counts = {
        "blank documents": report.blank_rows_dropped,
        "documents whose id occurred before": report.duplicate_ids,
        "files that are hidden or no images by name, and links to folders": report.other_files,
    }
    counts |= report.bad if by_reason else {"unreadable lines": report.bad_count}
    return {name: count for name, count in counts.items() if count}
