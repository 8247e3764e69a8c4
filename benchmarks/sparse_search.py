"""One query at a time: an index of sparse vectors, the exact search of `nearfar evaluate` on the
same vectors, BM25 on the same documents, and exact search of as many dense vectors.

`--index` is a folder that `nearfar index` wrote for a sparse model, `--source` a data set in BEIR
layout whose queries are asked. Vectors of the queries are computed before. The dense vectors are
random, with 384 dimensions: exact search takes as long for any. One thread; the contenders take
turns. The two sparse searches must give the same scores, or the script ends with an error.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring.children import run
from measuring.clocks import Clock
from measuring.record import noise, save, table

K, DIMENSIONS = 10, 384


def main(arguments: argparse.Namespace) -> None:
    if not arguments.index or not arguments.source:
        print("skipped: give --index, of a sparse model, and --source, a folder in BEIR layout")
        return
    import numpy as np
    import torch

    from trainer.data.retrieval_set import read_retrieval_set
    from trainer.retrieval.bm25 import Bm25
    from trainer.retrieval.encoding.encode import encode_queries
    from trainer.retrieval.indexes.searcher import Searcher
    from trainer.vectors.dense import DenseVectors
    from trainer.vectors.sparse import SparseVectors
    from trainer.vectors.vectors import nearest_documents

    torch.set_num_threads(1)
    searcher = Searcher.open(Path(arguments.index))
    (view,) = searcher.views
    index, count = view.index, searcher.count
    judged = read_retrieval_set(arguments.source, arguments.split, {}, arguments.queries)
    queries = encode_queries(view.encoder, judged.queries)
    start = Clock.now()
    words = Bm25([index.document(row).full_text for row in range(count)])
    built = Clock.now().since(start)
    documents = documents_of(Path(arguments.index), index.manifest.dimensions, count)
    generator = np.random.default_rng(0)
    dense = DenseVectors(generator.standard_normal((count, DIMENSIONS), np.float32))
    dense_queries = DenseVectors(generator.standard_normal((len(queries), DIMENSIONS), np.float32))
    assert isinstance(queries, SparseVectors)
    searches: dict[str, Callable[[Any], Any]] = {
        "sparse index": lambda row: index.nearest(queries.select(row), K),
        "sparse, exact search of a model": lambda row: nearest_documents(
            queries.select(row), documents, K
        ),
        "BM25": lambda row: list(words.best([judged.queries[row[0]]], K)),
        "dense, exact": lambda row: nearest_documents(dense_queries.select(row), dense, K),
    }
    times: dict[str, list[float]] = {name: [] for name in searches}
    searching = Clock.now()
    for row in range(len(queries)):
        results = {}
        for name, search in searches.items():
            start = Clock.now()
            results[name] = search(np.array([row]))
            times[name].append(1000 * Clock.now().since(start).processor)
        mine, exact = (results[name][0] for name in list(searches)[:2])
        assert (mine == exact).all() or (exact[mine != exact] == 0).all(), (mine, exact)
    wait_ratio = Clock.now().since(searching).wait_ratio
    figures = queries.figures("query")
    title = (
        f"{count:,} documents of {len(documents.rows) / count:.1f} active terms,"
        f" {len(queries):,} queries of {figures['active_terms_per_query']:.1f}; the {K} best"
    )
    rows = [
        [name, f"{np.median(values):.2f}", f"{np.quantile(values, 0.95):.2f}"]
        for name, values in times.items()
    ]
    text = table(title, ["", "processor ms per query", "95 %"], rows)
    text += f"\nBM25 indexes the documents in {built.processor:.1f} processor s"
    name = f"sparse-search-{Path(arguments.source).name}"
    save(name, f"{text}\n{noise([wait_ratio])}", times)


def documents_of(index: Path, vocabulary: int, count: int) -> Any:
    """The vectors of the documents, from the lists of the index."""
    import numpy as np

    from trainer.vectors.ragged import offsets_of
    from trainer.vectors.sparse import SparseVectors

    starts, rows, weights = (
        np.load(index / f"{name}.npy") for name in ("starts", "rows", "weights")
    )
    words = np.repeat(np.arange(vocabulary), np.diff(starts))
    order = rows.argsort(kind="stable")
    terms = np.stack([words[order].astype(np.float32), weights[order]], 1)
    return SparseVectors(terms, offsets_of(np.bincount(rows, minlength=count)), vocabulary)


if __name__ == "__main__":
    run(__file__, dict, main, index="", source="", split="test", queries=300)
