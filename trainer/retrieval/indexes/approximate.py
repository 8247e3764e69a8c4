"""Approximate search with FAISS: graphs (HNSW) and lists (IVF), their effort set by measuring
recall against exact search.
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
"""Effort is doubled until this share of the exact ten nearest is found."""
_EFFORT = {"hnsw": "efSearch", "ivf": "nprobe"}
_SAMPLE = 256
_VECTORS_AT_ONCE = 65536


def build_approximate(
    kind: Approximate, vectors: Float32[np.ndarray, "document dimension"]
) -> tuple[Any, dict[str, float]]:
    """A FAISS index by inner product, and its settings with the recall they reach.

    `hnsw`: a graph with 32 links a document (Malkov & Yashunin 2018). `ivf`: about 4 sqrt(n) lists
    by k-means (Sivic & Zisserman 2003). recall_at_10 is measured on documents of the index taken as
    queries, each without itself.
    """
    import faiss

    count, dimensions = vectors.shape
    settings: dict[str, float] = {}
    index: Any
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
    else:
        lists = max(
            1, min(int(4 * math.sqrt(count)), count // 39)
        )  # k-means wants 39 vectors a list
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(dimensions), dimensions, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.min_points_per_centroid = 1  # no warning on standard error for a small corpus
        index.train(np.ascontiguousarray(vectors[_spread(count, 256 * lists)]))
        settings["nlist"] = float(lists)
    with phase(f"building the {kind} index", count, "documents") as progress:
        for start in range(0, count, _VECTORS_AT_ONCE):
            part = np.ascontiguousarray(vectors[start : start + _VECTORS_AT_ONCE])
            index.add(part)
            progress.advance(len(part))
    most = settings.get("nlist", 1024)
    return index, settings | _tuned(index, kind, vectors, int(most))


def save(index: Any, path: Path) -> None:
    """Writes the index to `path`."""
    import faiss

    faiss.write_index(index, str(path))


def load(
    path: Path, kind: Approximate, count: int, dimensions: int, settings: dict[str, float]
) -> Any:
    """The index in `path`, set to the effort found when it was built. Raises BadFolder when it is
    not the one described.
    """
    import faiss

    wanted = {"hnsw": faiss.IndexHNSWFlat, "ivf": faiss.IndexIVFFlat}[kind]
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise BadFolder(f"{path} is not a FAISS index; build the index again") from error
    if not isinstance(index, wanted) or (index.ntotal, index.d, index.metric_type) != (
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
    """Scores and rows of about the k best, best first; row -1 where fewer were found."""
    return index.search(np.ascontiguousarray(queries), k)


def _set_effort(index: Any, kind: Approximate, effort: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    else:
        index.nprobe = effort


def _tuned(
    index: Any, kind: Approximate, vectors: Float32[np.ndarray, "document dimension"], most: int
) -> dict[str, float]:
    """The least effort, in doublings, with enough recall, and that recall."""
    sample = _spread(len(vectors), _SAMPLE)
    queries = np.ascontiguousarray(vectors[sample])
    _, exact = nearest_documents(DenseVectors(queries), DenseVectors(vectors), 11)
    effort = min(most, 64 if kind == "hnsw" else 1)
    while True:
        _set_effort(index, kind, effort)
        _, found = search(index, queries, exact.shape[1])
        recall = _recall(exact, found, sample)
        if recall >= ENOUGH_RECALL or effort >= most:
            return {_EFFORT[kind]: float(effort), "recall_at_10": round(recall, 4)}
        effort = min(most, 2 * effort)


def _recall(
    exact: Int64[np.ndarray, "query rank"],
    found: Int64[np.ndarray, "query rank"],
    itself: Int64[np.ndarray, " query"],
) -> float:
    wanted = [set(rows) - {own} for rows, own in zip(exact.tolist(), itself.tolist(), strict=True)]
    hits = [
        len(rows.intersection(got)) / len(rows)
        for rows, got in zip(wanted, found.tolist(), strict=True)
        if rows
    ]
    return float(np.mean(hits)) if hits else 1.0


def _spread(count: int, wanted: int) -> Int64[np.ndarray, " row"]:
    """At most `wanted` different rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))
