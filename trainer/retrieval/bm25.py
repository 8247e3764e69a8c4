"""BM25, the search by words that is the baseline of every learned model."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainer.progress import count_items, phase
from trainer.vectors.ranking import largest_positive

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet


class Bm25:
    """Search among documents by BM25 (Robertson & Zaragoza 2009). Memory holds their words.

    It is Lucene's variant, with k1 and b of BEIR's baseline. Words are lower-cased runs of at least
    two letters or digits. Lucene's 33 English stop words are left out, which was the stronger
    baseline on the data sets that we tried. Words are not stemmed.
    """

    def __init__(self, documents: Sequence[str], k1: float = 0.9, b: float = 0.4) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        corpus = bm25s.tokenize(list(documents), stopwords="en", show_progress=False)
        self._model = None
        if corpus.vocab and any(corpus.ids):
            self._model = bm25s.BM25(method="lucene", k1=k1, b=b)
            self._model.index(corpus, show_progress=False)

    @property
    def nbytes(self) -> int:
        """The bytes of the words' scores in memory, without the vocabulary."""
        if self._model is None:
            return 0
        return sum(np.asarray(array).nbytes for array in self._model.scores.values())

    def best(self, queries: Sequence[str], k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the rows and scores of the k best documents per query, best first.

        A document that shares no word with the query is not among them.
        """
        import bm25s

        if self._model is None or not queries:
            yield from ((np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries)
            return
        for words in bm25s.tokenize(
            list(queries), stopwords="en", show_progress=False, return_ids=False
        ):
            known_words = [word for word in words if word in self._model.vocab_dict]
            scores = self._model.get_scores(known_words) if known_words else np.empty(0, np.float32)
            rows = largest_positive(scores, k)
            yield rows, scores[rows]

    def run(
        self, queries: Mapping[str, str], document_ids: Sequence[str], k: int
    ) -> dict[str, dict[str, float]]:
        """Returns query id to document id to score of the k best documents, as `bm25_run`.

        `queries` are texts by id.
        """
        results = count_items(
            self.best(list(queries.values()), k),
            "searching by words",
            "queries",
            total=len(queries),
        )
        return {
            query: {
                document_ids[row]: score
                for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            }
            for query, (rows, scores) in zip(queries, results, strict=True)
        }


def bm25_run(
    retrieval_set: "RetrievalSet", k: int = 100, k1: float = 0.9, b: float = 0.4
) -> dict[str, dict[str, float]]:
    """Returns query id to document id to score of the k best documents by `Bm25`.

    A document that shares no word with the query is not retrieved, so a query may have fewer than k
    documents.
    """
    with phase("indexing words"):
        index = Bm25(retrieval_set.documents, k1, b)
    queries = retrieval_set.queries_by_id
    return index.run(queries, retrieval_set.document_ids, k)
