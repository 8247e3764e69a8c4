"""Weights of views that were learned on judged queries and are kept in the folder of the views."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import BadModel, BadRecipe
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.index_corpus import open_together
from trainer.retrieval.indexes.views import (
    BM25,
    LearnedWeights,
    ViewsManifest,
    index_folders,
    learned_weights,
    searched_views,
    views_of,
    views_of_images,
)
from trainer.storage.visible import visible

_PROBE = "probe.npy"
"""The vectors of fixed texts, which are others for another model."""


@dataclass(frozen=True)
class OpenViews:
    """The open views that are searched together, and how they are combined."""

    indexes: list[Index]
    weights: list[float] | None = None
    """One weight per index, and then that of BM25 if it has one; None: by reciprocal ranks."""
    has_words: bool = False
    """Whether BM25 has a weight."""
    note: str = ""
    """Where the weights come from, or why those that are kept are not used."""


def open_views(folder: Path) -> OpenViews:
    """Opens the views of a folder that have learned weights, or all views if the folder keeps none,
    or none that are valid. Raises BadFolder.
    """
    record = learned_weights(folder)
    if record is None:
        return OpenViews(open_together(searched_views(folder)))
    weights = {name: weight for name, weight in record.weights.items() if weight > 0}
    names = [name for name in weights if name != BM25]
    missing_views = [name for name in names if name not in views_of(folder)]
    indexes = [] if missing_views else open_together(searched_views(folder, names))
    changed_views = [
        name
        for name, index in zip(names, indexes, strict=False)
        if index.manifest.files[_PROBE].sha256 != record.probes[name]
    ]
    if missing_views or changed_views:
        problem = (
            f"the view {changed_views[0]} is of another model now"
            if changed_views
            else f"the view {missing_views[0]} is gone"
        )
        return OpenViews(
            open_together(searched_views(folder)),
            note=(
                f"the weights learned on {visible(record.learned_on, 60)} are void, because"
                f" {problem}; all views are combined by reciprocal ranks: learn new weights with"
                " `nearfar evaluate --learn-weights`"
            ),
        )
    has_words = BM25 in weights
    ordered_weights = [weights[name] for name in [*names, *([BM25] if has_words else [])]]
    return OpenViews(indexes, ordered_weights, has_words, _note(folder, record, weights))


def open_views_of_images(folder: Path, view: str | None, hybrid: bool) -> OpenViews:
    """Opens an index, or what a folder of views has, that can be searched by an image: the view of
    this name, the only view of images, or with `hybrid` all of them.

    Raises BadModel without any, and BadRecipe if there are several of which one must be chosen.
    """
    has_choice = hybrid or view is not None
    names = [] if view is None else [view]
    views = open_together(searched_views(folder, names) if has_choice else index_folders(folder))
    images = [index for index in views if index.has_images]
    if not images and (image_views := views_of_images(folder)):
        raise BadModel(f"the view {view} holds no images; --view {image_views[0]} does")
    if not images:
        listing = ", ".join(f"{index.folder.name} by {index.manifest.made_with}" for index in views)
        raise BadModel(
            f"{folder} holds no images, so it cannot be searched by one ({listing}); write the"
            " question in words, or build an index with a model of images"
        )
    if len(images) > 1 and not hybrid:
        listing = ", ".join(index.folder.name for index in images)
        raise BadRecipe(
            f"{folder} has several views of images: {listing}; choose one with --view, or all"
            " of them with --hybrid"
        )
    return OpenViews(images)


def _note(folder: Path, record: LearnedWeights, weights: Mapping[str, float]) -> str:
    rest = [name for name in views_of(folder) if name not in weights]
    terms = " + ".join(f"{weight:g} {name}" for name, weight in weights.items())
    note = (
        f"weights {terms}, learned on {record.queries:,} queries of"
        f" {visible(record.learned_on, 60)}, where they have nDCG@10 {record.ndcg_at_10:.3f}"
    )
    return f"{note}; not searched: {', '.join(rest)}" if rest else note


def keep_weights(
    folder: Path,
    weights: Mapping[str, float],
    indexes: Mapping[str, Index],
    learned_on: str,
    queries: int,
    ndcg_at_10: float,
) -> None:
    """Writes learned weights into the manifest of a folder of views.

    `weights` are those of views, and of BM25 or not; `indexes` are the open views with weights.
    """
    record = LearnedWeights(
        weights=dict(weights),
        probes={name: index.manifest.files[_PROBE].sha256 for name, index in indexes.items()},
        learned_on=learned_on,
        queries=queries,
        ndcg_at_10=ndcg_at_10,
    )
    ViewsManifest(weights=record).write(folder)
