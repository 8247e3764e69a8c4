"""Approximate search with FAISS: graphs (HNSW) and lists (IVF).

The search effort is chosen by measuring the recall against exact search.
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from trainer.errors import BadFolder
from trainer.progress import phase
from trainer.vectors.dense import DenseVectors
from trainer.vectors.vectors import nearest_documents

Approximate = Literal["hnsw", "ivf"]

ENOUGH_RECALL = 0.95
"""The effort is doubled until the search finds this share of the exact ten nearest documents."""
_EFFORT = {"hnsw": "efSearch", "ivf": "nprobe"}
_SAMPLE = 256
_VECTORS_AT_ONCE = 65536


def build_approximate(
    kind: Approximate, vectors: Float32[np.ndarray, "document dimension"]
) -> tuple[Any, dict[str, float]]:
    """Returns a FAISS index by inner product, and its settings with their recall.

    `hnsw`: a graph with 32 links per document (Malkov & Yashunin 2018). `ivf`: about 4 sqrt(n)
    lists by k-means (Sivic & Zisserman 2003). recall_at_10 is measured with documents of the index
    as queries; a document does not count as its own neighbour.
    """
    import faiss

    count, dimensions = vectors.shape
    settings: dict[str, float] = {}
    index: Any
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
    else:
        # k-means needs 39 vectors per list.
        lists = max(1, min(int(4 * math.sqrt(count)), count // 39))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.min_points_per_centroid = 1  # no warning on standard error for a small corpus
        index.train(np.ascontiguousarray(vectors[_evenly_spread(count, 256 * lists)]))
        settings["nlist"] = float(lists)
    with phase(f"building the {kind} index", count, "documents") as progress:
        for start in range(0, count, _VECTORS_AT_ONCE):
            part = np.ascontiguousarray(vectors[start : start + _VECTORS_AT_ONCE])
            index.add(part)
            progress.advance(len(part))
    max_effort = settings.get("nlist", 1024)
    return index, settings | _tune(index, kind, vectors, int(max_effort))


def save(index: Any, path: Path) -> None:
    """Writes the index to `path`."""
    import faiss

    faiss.write_index(index, str(path))


def load(
    path: Path, kind: Approximate, count: int, dimensions: int, settings: dict[str, float]
) -> Any:
    """Returns the index in `path`, with the effort chosen when it was built.

    Raises BadFolder when the file does not hold the index that the arguments describe.
    """
    import faiss

    index_class = {"hnsw": faiss.IndexHNSWFlat, "ivf": faiss.IndexIVFFlat}[kind]
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise BadFolder(f"{path} is not a FAISS index; build the index again") from error
    if not isinstance(index, index_class) or (index.ntotal, index.d, index.metric_type) != (
        count,
        dimensions,
        faiss.METRIC_INNER_PRODUCT,
    ):
        raise BadFolder(
            f"{path} holds another FAISS index than the manifest describes; build the index again"
        )
    if settings.get(_EFFORT[kind], 0) < 1:
        raise BadFolder(f"the manifest beside {path} lacks {_EFFORT[kind]}; build the index again")
    _set_effort(index, kind, int(settings[_EFFORT[kind]]))
    return index


def search(
    index: Any, queries: Float32[np.ndarray, "query dimension"], k: int
) -> tuple[Float32[np.ndarray, "query rank"], Int64[np.ndarray, "query rank"]]:
    """Returns scores and rows of about the k best documents, best first; row -1 for none."""
    return index.search(np.ascontiguousarray(queries), k)


def _set_effort(index: Any, kind: Approximate, effort: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    else:
        index.nprobe = effort


def _tune(
    index: Any,
    kind: Approximate,
    vectors: Float32[np.ndarray, "document dimension"],
    max_effort: int,
) -> dict[str, float]:
    """Doubles the effort until the recall is high enough; returns the effort and the recall."""
    sample = _evenly_spread(len(vectors), _SAMPLE)
    queries = np.ascontiguousarray(vectors[sample])
    _, exact = nearest_documents(DenseVectors(queries), DenseVectors(vectors), 11)
    effort = min(max_effort, 64 if kind == "hnsw" else 1)
    while True:
        _set_effort(index, kind, effort)
        _, approximate_rows = search(index, queries, exact.shape[1])
        recall = _recall(exact, approximate_rows, sample)
        if recall >= ENOUGH_RECALL or effort >= max_effort:
            return {_EFFORT[kind]: float(effort), "recall_at_10": round(recall, 4)}
        effort = min(max_effort, 2 * effort)


def _recall(
    exact: Int64[np.ndarray, "query rank"],
    approximate_rows: Int64[np.ndarray, "query rank"],
    sample_rows: Int64[np.ndarray, " query"],
) -> float:
    exact_sets = [
        set(rows) - {row} for rows, row in zip(exact.tolist(), sample_rows.tolist(), strict=True)
    ]
    hits = [
        len(rows.intersection(got)) / len(rows)
        for rows, got in zip(exact_sets, approximate_rows.tolist(), strict=True)
        if rows
    ]
    return float(np.mean(hits)) if hits else 1.0


def _evenly_spread(count: int, count_limit: int) -> Int64[np.ndarray, " row"]:
    """Returns at most `count_limit` different rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, count_limit)).astype(np.int64))
