"""Views: several indexes of the same documents in one folder, each with its own model.

manifest.json    says that the folder holds views
views/NAME/      an index like any other
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, model_validator

from trainer.data.readers.corpus import Document
from trainer.errors import BadData, BadFolder, BadRecipe
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.manifest import MANIFEST, parse_manifest, read_content
from trainer.storage.atomic import write_text
from trainer.storage.locks import exclusive

VIEWS = "views"
"""The name of the folder of all views, and the kind in the manifest."""
BM25 = "bm25"
"""Stands for BM25 among the weights of views, so no view has this name."""
RANKS = "ranks"
"""Stands for reciprocal ranks in place of weights."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_LEFTOVER = re.compile(rf"\.{VIEWS}\.[0-9a-f]{{8}}\.partial")
"""What a killed process leaves, which wanted to change all views."""


class LearnedWeights(BaseModel):
    """Weights of views that were learned on judged queries."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    weights: dict[str, NonNegativeFloat]
    """The weight of each view, and of BM25 if it was among them."""
    probes: dict[str, str]
    """The SHA-256 of the probe of each of these views: it is another for another model."""
    learned_on: str
    queries: PositiveInt
    ndcg_at_10: float
    """On the queries that they were learned on."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        views = self.weights.keys() - {BM25}
        if not any(self.weights[view] for view in views) or self.probes.keys() != views:
            raise ValueError("no view has a weight, or a view has no probe")
        if not all(map(_NAME.fullmatch, views)):
            raise ValueError("a name is not that of a view")
        return self


class ViewsManifest(BaseModel):
    """The manifest of a folder of views."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    kind: Literal["views"] = "views"
    weights: LearnedWeights | None = None

    def write(self, folder: Path) -> None:
        """Writes the manifest into `folder`."""
        write_text(folder / MANIFEST, self.model_dump_json(exclude_none=True, indent=2) + "\n")


def learned_weights(folder: Path) -> LearnedWeights | None:
    """Returns the weights that a folder of views keeps, if any. Raises BadFolder."""
    manifest = _manifest(folder)
    return None if manifest is None else manifest.weights


def has_views(folder: Path) -> bool:
    """Returns true if `folder` holds views. Raises BadFolder for a damaged manifest."""
    return _manifest(folder) is not None


def _manifest(folder: Path) -> ViewsManifest | None:
    if not (folder / MANIFEST).is_file():
        return None
    content = read_content(folder)
    return parse_manifest(ViewsManifest, content, folder) if content.get("kind") == VIEWS else None


def views_of(folder: Path) -> dict[str, Path]:
    """Returns the folder of each view, by name; none if `folder` holds no views."""
    is_folder = has_views(folder) and (folder / VIEWS).is_dir()
    places = sorted((folder / VIEWS).iterdir()) if is_folder else []
    return {place.name: place for place in places if _NAME.fullmatch(place.name)}


def views_of_images(folder: Path) -> list[str]:
    """Returns the names of the views in `folder` that hold images, without damaged ones."""
    names = []
    for name, place in views_of(folder).items():
        with contextlib.suppress(BadFolder):
            names += [name] if read_content(place).get("has_images") else []
    return names


def index_folders(folder: Path) -> list[Path]:
    """Returns the folders of all views in `folder`, or `folder` itself if it holds none."""
    return list(views_of(folder).values()) or [folder]


def place_of_view(folder: Path, name: str) -> Path:
    """Returns the place of a new view; call it before slow work.

    Raises BadRecipe for a name that a folder should not have, and BadFolder when `folder` holds
    something other than views.
    """
    if not _NAME.fullmatch(name) or name == BM25:
        raise BadRecipe(
            f"--view {name!r} cannot be the name of a view; write at most 40 lower-case letters,"
            f" digits, - and _, such as dense; {BM25} stands for search by words"
        )
    contents = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    contents = {name for name in contents if not _LEFTOVER.fullmatch(name)}
    if contents - {VIEWS, MANIFEST} or (MANIFEST in contents and not has_views(folder)):
        raise BadFolder(
            f"{folder} holds something other than views, such as an index without views; choose"
            " another folder, and build every index in it with --view"
        )
    return folder / VIEWS / name


def mark_views(folder: Path) -> None:
    """Writes the manifest that says that `folder` holds views, if there is none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not has_views(folder):
        ViewsManifest().write(folder)


@contextlib.contextmanager
def unchanged_views(folder: Path) -> Iterator[None]:
    """Context in which no other process changes the documents of views that are there.

    Raises BadFolder if one does.
    """
    views = folder / VIEWS
    with exclusive(views, is_shared=True) if views.is_dir() else contextlib.nullcontext():
        yield


def same_documents(
    view: Index, documents: Iterable[Document], has_images: bool
) -> Iterator[Document]:
    """Yields the documents. Raises BadData at the first that a view does not have at this place.

    Images, for which `has_images` is true, and texts are the same documents if their ids are.
    """
    stored_documents = map(view.document, view.live_rows().tolist())
    for number, pair in enumerate(zip_longest(documents, stored_documents), 1):
        document, stored_document = pair
        if (
            document is None
            or stored_document is None
            or document.id != stored_document.id
            or (has_images == view.has_images and document.without_bytes() != stored_document)
        ):
            hint = (
                ""
                if has_images or view.has_images
                else f"; after `nearfar add` or `delete`, that is {view.folder}/documents*.jsonl"
            )
            raise BadData(
                f"the corpus is not that of {view.folder}: {_difference(number, *pair)};"
                " all views of a folder have the same documents. Build this one from the same"
                f" corpus, or in another folder{hint}"
            )
        yield document


def _difference(number: int, document: Document | None, stored_document: Document | None) -> str:
    if stored_document is None:
        return f"that one has only {number - 1:,} documents"
    if document is None:
        return f"it has only {number - 1:,} documents, and that one has more"
    if document.id != stored_document.id:
        return f"document {number:,} is {document.id!r} here, and {stored_document.id!r} there"
    content = "image, title or text" if document.image else "title or text"
    return f"document {document.id!r} has another {content} there"


def check_together(views: Sequence[Index]) -> None:
    """Raises BadFolder if views have different documents, as far as the files' records say; between
    views of images and of texts, if the ids differ.
    """
    records = {
        frozenset(
            record for name, record in view.manifest.files.items() if name.startswith("documents")
        ): view
        for view in views
    }
    views_to_compare = {view.has_images: view for view in records.values()}
    is_same = len(views_to_compare) == len(records)
    if is_same and len(records) > 1:
        is_same = all(
            first == second for first, second in zip_longest(*map(_ids, views_to_compare.values()))
        )
    if not is_same:
        counts = [f"{view.folder.name}: {view.manifest.count:,}" for view in views]
        raise BadFolder(
            f"the views in {views[0].folder.parent} have different documents"
            f" ({', '.join(counts)}); build them again from one corpus"
        )


def _ids(view: Index) -> Iterator[str]:
    return (view.document(row).id for row in view.live_rows().tolist())


def check_no_view(index: Path) -> None:
    """Raises BadFolder for a single view, whose documents change with those of all views."""
    folder = index.resolve().parent.parent
    if index.resolve().parent.name == VIEWS and has_views(folder):
        raise BadFolder(
            f"{index} is a view, and all views of a folder have the same documents; change them"
            f" together: give {folder}"
        )


def searched_views(folder: Path, names: Collection[str] = ()) -> list[Path]:
    """Returns the folders of the views with these names, or of all views.

    Raises BadFolder for a view that is not there.
    """
    views = views_of(folder)
    if not views:
        read_content(folder)  # raises the right error for a folder that is not there
        raise BadFolder(
            f"{folder} has no views; search it without --view and --hybrid, or build views in"
            " another folder with `nearfar index MODEL CORPUS -o FOLDER --view NAME`"
        )
    for name in names:
        if name not in views:
            raise BadFolder(f"{folder} has no view {name!r}; it has {', '.join(views)}")
    return [views[name] for name in names or views]


def parse_weights(weights: str | Mapping[str, object]) -> dict[str, float]:
    """Returns the weights that a user gave, as text or by name; none for `ranks`. Raises BadRecipe.

    >>> parse_weights("dense=2,sparse=0.5")
    {'dense': 2.0, 'sparse': 0.5}
    >>> parse_weights("ranks")
    {}
    """
    if isinstance(weights, str):
        parts = [] if weights.strip() == RANKS else weights.split(",")
        pairs = [part.strip().partition("=")[::2] for part in parts]
    else:
        pairs = [(name, f"{weight}") for name, weight in weights.items()]
    numbers: dict[str, float] = {}
    for name, value in pairs:
        if name in numbers:
            raise BadRecipe(f"--weights {weights!r} names {name} twice; give each view one weight")
        try:
            numbers[name] = float(value)
        except ValueError:
            numbers[name] = -1.0
        if not 0 < numbers[name] < float("inf"):
            raise BadRecipe(
                f"--weights {weights!r}: '{name}={value}' is not a view and a weight above 0;"
                f" write, for example, --weights dense=2,sparse=1, or --weights {RANKS} for"
                " reciprocal ranks"
            )
    return numbers
