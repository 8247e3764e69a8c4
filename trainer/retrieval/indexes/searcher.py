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
from trainer.retrieval.rerank import score_pairs
from trainer.retrieval.token_index.explain import Match, explain
from trainer.strategies.devices import Precision


class Searcher:
    """An open index, the model that made it, and a cross-encoder that re-ranks, where one is
    given.
    """

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
        """The searcher of an index folder.

        `model` says where the model of the index is now, if it was moved; `reranker` names a
        cross-encoder, which orders the first `rerank_depth` documents. Raises BadFolder, BadModel.
        """
        searched_index = open_index(index)
        cross_encoder = read_reranker(reranker) if reranker is not None else None
        encoder = model_of_index(index, searched_index.manifest, model)
        return cls(searched_index, encoder, cross_encoder, rerank_depth)

    def search(self, questions: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """The k best documents for each question, best first. Raises BadData for a blank
        question.
        """
        if not all(question.strip() for question in questions):
            raise BadData("the question is blank; say what to look for")
        if self.reranker is None:
            return hits(self.index, self.encoder, questions, k)
        first = hits(self.index, self.encoder, questions, max(k, self.rerank_depth))
        return self._rerank(self.reranker, questions, first, k)

    def explain(self, question: str, hit: Hit) -> list[Match]:
        """For each token of the question, the token of the document that it matched. Raises
        BadModel where the index holds one vector per document.
        """
        self.check_explains()
        return explain(self.encoder, question, hit.document.full_text)

    def check_explains(self) -> None:
        """Raises BadModel where the index cannot tell one token from another."""
        if self.index.UNIT != "token":
            raise BadModel(
                f"{self.index.folder} holds one vector per document, so no token can be told from"
                " another; --explain needs an index of a late-interaction model"
            )

    @staticmethod
    def _rerank(
        encoder: PairEncoder, questions: Sequence[str], first: list[list[Hit]], k: int
    ) -> list[list[Hit]]:
        """The k best of the first documents in the cross-encoder's order."""
        if not any(first):
            raise BadData(
                "the index has no document to re-rank; add some, or search without --rerank"
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
    """The k best documents of each question, best first.

    Raises BadModel when the encoder is not the one of the index, BadData for a question no token of
    which an index of token vectors could compare.
    """
    queries = encode_queries(index.fitted(encoder), questions, precision=precision)
    scores, rows = index.search(queries.to_padded(), k)
    return [
        [
            Hit(score, index.document(row))
            for score, row in zip(query_scores, query_rows, strict=True)
            if row >= 0
        ]
        for query_scores, query_rows in zip(scores.tolist(), rows.tolist(), strict=True)
    ]
