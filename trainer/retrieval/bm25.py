"""BM25, the search by words that every learned model has to beat."""

import logging
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet


def bm25_run(set: "RetrievalSet", k: int = 100, k1: float = 0.9, b: float = 0.4) -> dict[str, dict[str, float]]:
    """Query id to document id to score of the k best documents by BM25 (Robertson & Zaragoza 2009, in Lucene's form; k1 and b as BEIR's baseline).

    Words are lower-cased runs of at least two letters or digits, without Lucene's 33 English stop words (the stronger baseline on the sets
    tried); nothing is stemmed. A document that shares no word with the query is not retrieved, so a query may have fewer than k.
    """
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    corpus = bm25s.tokenize(list(set.documents), stopwords="en", show_progress=False)
    run: dict[str, dict[str, float]] = {query: {} for query in set.query_ids}
    if not corpus.vocab or not any(corpus.ids) or not set.queries:
        return run
    model = bm25s.BM25(method="lucene", k1=k1, b=b)
    model.index(corpus, show_progress=False)
    queries = bm25s.tokenize(list(set.queries), stopwords="en", show_progress=False, return_ids=False)
    known = [[word for word in words if word in model.vocab_dict] for words in queries]
    for query, words in zip(set.query_ids, known, strict=True):
        if words:
            run[query] = _best(model.get_scores(words), set.document_ids, k)
    return run


def _best(scores: np.ndarray, document_ids: tuple[str, ...], k: int) -> dict[str, float]:
    """The k documents with the largest scores above 0; of equal ones the first."""
    k = min(k, len(scores))
    smallest = np.partition(scores, -k)[-k]
    candidates = np.flatnonzero((scores >= smallest) & (scores > 0))
    order = candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
    return {document_ids[row]: float(scores[row]) for row in order}
