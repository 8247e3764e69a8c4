"""`Router`: chooses for each query which way of searching to ask, or all of them.

For each way, called a route, it predicts by how much nDCG@10 is higher than if all were asked and
combined by reciprocal rank fusion. The prediction is linear in the features of the query and their
products. A price per share of the cost turns this into a choice: the route with the largest
prediction minus price * cost.

manifest.json        the routes, what they cost, and the quality-cost curve on the queries it
                     learned from; sizes and hashes of the files
router.safetensors   weights and word counts
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import ValidationError

from trainer.errors import BadData, BadFolder
from trainer.routing.features import FEATURES, WordCounts, query_features
from trainer.routing.settings import RouterSettings
from trainer.storage.atomic import atomic_folder, check_replaceable, write_safetensors
from trainer.storage.manifest import (
    MANIFEST,
    Damaged,
    digest_files,
    read_manifest,
    verify_files,
    write_manifest,
)
from trainer.storage.near_paths import missing_path

ALL_ROUTES = -1
"""The choice to ask all routes, and to combine what they find."""

_ARRAYS = "router.safetensors"
_FORMAT = 1


@dataclass(frozen=True, eq=False, repr=False)
class Router:
    """Chooses routes for queries."""

    settings: RouterSettings
    words: WordCounts
    means: Float64[np.ndarray, " feature"]
    deviations: Float64[np.ndarray, " feature"]
    weights: Float64[np.ndarray, "route term"]
    intercepts: Float64[np.ndarray, " route"]

    def gains(self, queries: Sequence[str]) -> Float64[np.ndarray, "query route"]:
        """Predicts nDCG@10 of each route minus that of asking all."""
        features = query_features(queries, self.words)
        return terms((features - self.means) / self.deviations) @ self.weights.T + self.intercepts

    def choose(self, queries: Sequence[str], limit: float = 1.0) -> Int64[np.ndarray, " query"]:
        """Returns the number of the route of each query, or `ALL_ROUTES`.

        `limit` bounds the mean cost of a query, as a share of that of asking all. It holds for
        queries like those that the router learned from. BM25 is not asked alone where it cannot
        find anything. Raises BadRecipe if nothing is so cheap.
        """
        rule = self.settings.best_rule(limit)
        if rule.route is not None:
            choices = np.full(len(queries), rule.route)
        else:
            choices = choose_routes(self.gains(queries), self.settings.costs, rule.price)
        for row, choice in enumerate(choices):
            is_by_words = choice != ALL_ROUTES and self.settings.routes[choice] == "bm25"
            if is_by_words and not self.words.has_word_of(queries[row]):
                choices[row] = ALL_ROUTES
        return choices

    def route_names(self, queries: Sequence[str], limit: float = 1.0) -> list[str]:
        """Returns the name of the route of each query, or "all". See `choose`.

        Raises BadData for a blank query.
        """
        if not all(query.strip() for query in queries):
            raise BadData("a query is blank; write the text to search for")
        names = [*self.settings.routes, "all"]
        return [names[choice] for choice in self.choose(queries, limit)]

    def __repr__(self) -> str:
        settings = self.settings
        return (
            f"Router({', '.join(settings.routes)}; learned from {settings.queries:,} queries of"
            f" {settings.learned_from})"
        )

    def save(self, folder: Path, replace: bool = False) -> None:
        """Writes the router into `folder`. Raises BadFolder as `check_router_folder` does."""
        import torch

        check_router_folder(folder, replace)
        arrays = {
            "means": self.means,
            "deviations": self.deviations,
            "weights": self.weights,
            "intercepts": self.intercepts,
            "word_hashes": self.words.hashes,
            "word_counts": self.words.counts,
        }
        with atomic_folder(folder) as partial:
            tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
            write_safetensors(partial / _ARRAYS, tensors, {"documents": str(self.words.documents)})
            content = {"format": _FORMAT, "features": list(FEATURES)}
            settings = {"settings": self.settings.model_dump(mode="json")}
            write_manifest(partial, content | settings, digest_files(partial, [_ARRAYS]))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the router in `folder`. Raises BadFolder when there is none, or it is damaged."""
        from safetensors import SafetensorError, safe_open

        if not (folder / MANIFEST).is_file():
            advice = "; make a router with `nearfar route fit`"
            is_other = folder.exists()
            problem = f"{folder} is no router{advice}" if is_other else missing_path(folder, advice)
            raise BadFolder(problem)
        _check_is_no_index(folder)
        try:
            settings = _settings(folder)
            with safe_open(folder / _ARRAYS, "np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                words = WordCounts(
                    int(file.metadata()["documents"]), arrays["word_hashes"], arrays["word_counts"]
                )
            names = ("means", "deviations", "weights", "intercepts")
            router = cls(settings, words, *(arrays[name] for name in names))
            router._check()
        except (Damaged, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BadFolder(
                f"{folder} is damaged ({error}); make the router again with `nearfar route fit`"
            ) from error
        return router

    def _check(self) -> None:
        """Raises Damaged when the arrays do not belong together."""
        count = len(self.settings.routes)
        expected_shapes = {
            "means": (len(FEATURES),),
            "deviations": (len(FEATURES),),
            "weights": (count, len(terms(np.zeros((1, len(FEATURES))))[0])),
            "intercepts": (count,),
        }
        for name, shape in expected_shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
                raise Damaged(f"{name} are no {shape} finite numbers")
        index_routes = {route for route in self.settings.routes if route.startswith("index:")}
        if not index_routes.issuperset(self.settings.image_routes):
            raise Damaged("its routes of images are none of its indexes")
        lengths = [len(self.settings.milliseconds), len(self.settings.qualities) - 1]
        counts = self.words
        is_counted = counts.documents >= 0 and counts.hashes.shape == counts.counts.shape
        is_counted &= counts.hashes.ndim == 1 and counts.hashes.dtype == np.int64
        if lengths != [count, count] or not is_counted:
            raise Damaged("its parts do not belong together")


def choose_routes(
    gains: Float64[np.ndarray, "query route"], costs: Float64[np.ndarray, " route"], price: float
) -> Int64[np.ndarray, " query"]:
    """Returns the route with the largest gain - price * cost per query; `ALL_ROUTES`, whose gain
    is 0 and cost 1, if none is larger.

    >>> choose_routes(np.array([[0.1, -0.3], [-0.2, -0.1]]), np.array([0.9, 0.1]), 0.0).tolist()
    [0, -1]
    >>> choose_routes(np.array([[0.1, -0.3], [-0.2, -0.1]]), np.array([0.9, 0.1]), 0.2).tolist()
    [0, 1]
    """
    worths = gains - price * costs
    best = worths.argmax(1)
    return np.where(worths.max(1) > -price, best, ALL_ROUTES)


def terms(features: Float64[np.ndarray, "query feature"]) -> Float64[np.ndarray, "query term"]:
    """Returns the features, then their products of two, in the order of scikit-learn's
    `PolynomialFeatures(2, include_bias=False)`.
    """
    rows, columns = np.triu_indices(features.shape[1])
    return np.concatenate([features, features[:, rows] * features[:, columns]], 1)


def check_router_folder(folder: Path, replace: bool) -> None:
    """Raises BadFolder when a router cannot be written to `folder`; call it before slow work."""
    check_replaceable(folder, "router")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names - {MANIFEST, _ARRAYS}:
        raise BadFolder(f"{folder} holds something other than a router; name another folder")
    if names and not replace:
        raise BadFolder(f"{folder} holds a router already; give --replace, or name another folder")


def _check_is_no_index(folder: Path) -> None:
    """Raises BadFolder for an index, whose manifest has a `kind`."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # damaged, which is told later
    if isinstance(content, dict) and "kind" in content:
        raise BadFolder(
            f"{folder} is an index, no router; make a router with `nearfar route fit`, and search"
            f" with `nearfar search {folder} QUESTION --router ROUTER`"
        )


def _settings(folder: Path) -> RouterSettings:
    """Returns the settings of a folder whose files are as they were written. Raises Damaged."""
    content = read_manifest(folder)
    if content.get("format") != _FORMAT or content.get("features") != list(FEATURES):
        raise Damaged("it was made by another version of nearfar")
    verify_files(folder, {_ARRAYS: content["files"][_ARRAYS]})
    try:
        return RouterSettings.model_validate(content["settings"])
    except ValidationError as error:
        raise Damaged(f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error
