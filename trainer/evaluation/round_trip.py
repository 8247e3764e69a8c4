"""A search of texts for the round trip of written questions."""

from collections.abc import Sequence

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluate import retrieve
from trainer.models.cut import read_cut
from trainer.retrieval.bm25 import bm25_run
from trainer.strategies.devices import choose_precision, find_accelerator


def first_documents(
    documents: Sequence[str], queries: Sequence[str], k: int, model: str | None = None
) -> list[list[int]]:
    """Returns the positions of the first k documents of each query, by a model or by BM25.

    >>> first_documents(["grow a disk", "rotate a key"], ["disk size"], 1)
    [[0]]
    """
    if not queries:
        return []
    searched_set = RetrievalSet(
        "questions",
        tuple(f"q{number}" for number in range(len(queries))),
        tuple(queries),
        tuple(map(str, range(len(documents)))),
        tuple(documents),
        {},
    )
    if model is None:
        run = bm25_run(searched_set, k)
    else:
        accelerator = find_accelerator()
        encoder = read_cut(model, None, None).to(accelerator)
        run = retrieve(encoder, searched_set, k, choose_precision("auto", accelerator))
    return [[int(document) for document in run[query]] for query in searched_set.query_ids]
