"""An index with its model, ready to answer questions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from trainer.errors import BadData, BadModel
from trainer.models.encoder import PairEncoder, VectorEncoder
from trainer.models.families import read_reranker
from trainer.retrieval.encoding.encode import encode_queries
from trainer.retrieval.indexes.index import Hit, Index
from trainer.retrieval.indexes.index_corpus import model_of_index, open_index
from trainer.retrieval.indexes.shared_terms import SharedTerm, shared_terms
from trainer.retrieval.rerank import score_pairs
from trainer.retrieval.token_index.explain import Match, explain
from trainer.strategies.devices import Precision

Explanation = list[Match] | list[SharedTerm]


class Searcher:
    """An open index, its model, and optionally a cross-encoder that re-ranks."""

    def __init__(
        self,
        index: Index,
        encoder: VectorEncoder,
        reranker: PairEncoder | None = None,
        rerank_depth: int = 100,
    ) -> None:
        self.index, self.encoder = index, encoder
        self.reranker, self.rerank_depth = reranker, rerank_depth

    @classmethod
    def open(
        cls,
        index: Path,
        *,
        model: str | None = None,
        reranker: str | None = None,
        rerank_depth: int = 100,
    ) -> Self:
        """Returns a searcher for an index folder.

        `model` is the new place of the index's model, if it was moved. `reranker` names a
        cross-encoder, which re-ranks the first `rerank_depth` documents. Raises BadFolder,
        BadModel.
        """
        searched_index = open_index(index)
        cross_encoder = read_reranker(reranker) if reranker is not None else None
        encoder = model_of_index(index, searched_index.manifest, model)
        return cls(searched_index, encoder, cross_encoder, rerank_depth)

    def search(self, questions: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """Returns the k best documents per question, best first; BadData for a blank question."""
        if not all(question.strip() for question in questions):
            raise BadData("the question is blank; write what to search for")
        if self.reranker is None:
            return hits(self.index, self.encoder, questions, k)
        first = hits(self.index, self.encoder, questions, max(k, self.rerank_depth))
        return self._rerank(self.reranker, questions, first, k)

    def explain(self, question: str, hit: Hit) -> Explanation:
        """Returns the token of the document that each token of the question matched, or the terms
        that both share.

        Raises BadModel when the index holds one dense vector per document.
        """
        self.check_explains()
        explanation = explain if self.index.UNIT == "token" else shared_terms
        return explanation(self.encoder, question, hit.document.full_text)

    def check_explains(self) -> None:
        """Raises BadModel when the index holds one dense vector per document."""
        if self.index.UNIT == "text":
            raise BadModel(
                f"{self.index.folder} holds one dense vector per document, which shows no words;"
                " --explain needs an index of a late-interaction or a sparse model"
            )

    @staticmethod
    def _rerank(
        encoder: PairEncoder, questions: Sequence[str], first: list[list[Hit]], k: int
    ) -> list[list[Hit]]:
        """Returns the k best of the first documents, in the order of the cross-encoder."""
        if not any(first):
            raise BadData(
                "the first search found no document to re-rank; add some to the index, or ask"
                " another question"
            )
        pairs = [
            (question, hit.document.full_text)
            for question, documents in zip(questions, first, strict=True)
            for hit in documents
        ]
        scores = iter(score_pairs(encoder, pairs).tolist())
        return [
            sorted(
                (
                    replace(hit, score=next(scores), first_rank=rank, first_score=hit.score)
                    for rank, hit in enumerate(documents, 1)
                ),
                key=lambda hit: -hit.score,
            )[:k]
            for documents in first
        ]


def hits(
    index: Index,
    encoder: VectorEncoder,
    questions: Sequence[str],
    k: int,
    precision: Precision = "fp32",
) -> list[list[Hit]]:
    """Returns the k best documents per question, best first.

    Raises BadModel when the encoder is not that of the index. Raises BadData for a question that
    has no token that counts.
    """
    queries = encode_queries(index.fit_encoder(encoder), questions, precision=precision)
    scores, rows = index.nearest(queries, k)
    return [
        [
            Hit(score, index.document(row))
            for score, row in zip(query_scores, query_rows, strict=True)
            if row >= 0
        ]
        for query_scores, query_rows in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
