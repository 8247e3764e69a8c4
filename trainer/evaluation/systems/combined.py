"""Systems that combine others: fusion of several, and re-ranking of one."""

from collections.abc import Mapping, Sequence
from typing import Self

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluate import measured_run
from trainer.evaluation.metrics import RetrievalRun
from trainer.evaluation.systems.system import Corpus, Preparation, System, weight_bytes
from trainer.evaluation.systems.weights import choose_weights
from trainer.models.encoder import PairEncoder
from trainer.retrieval.fusion import FUSED_DOCUMENTS, fuse_ranks, fuse_scores
from trainer.retrieval.rerank import rerank
from trainer.strategies.devices import Precision


class RankFusion:
    """Several systems, combined by reciprocal rank fusion."""

    def __init__(self, parts: Sequence[System], note: str = "") -> None:
        self.name = f"hybrid: {' + '.join(part.name for part in parts)}"
        self._parts, self.preparation, self.note = parts, _preparation_of(parts), note

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the k best documents per query among the first ones of each system."""
        return fuse_ranks([part.search(queries, FUSED_DOCUMENTS) for part in self._parts], k)


class ScoreFusion:
    """Several systems, combined by a weighted sum of their scores."""

    def __init__(self, parts: Sequence[System], weights: Sequence[float], note: str) -> None:
        self.name = f"weighted: {' + '.join(part.name for part in parts)}"
        self._parts, self.preparation = parts, _preparation_of(parts)
        self.weights, self.note = weights, note

    @classmethod
    def learn(cls, parts: Sequence[System], judged_set: RetrievalSet) -> Self:
        """Returns the fusion with the best weights on judged queries, which must not be those that
        are measured.
        """
        weights, quality = learn_weights(parts, judged_set)
        terms = [f"{weight:.1f} {part.name}" for weight, part in zip(weights, parts, strict=True)]
        note = (
            f"weights {' + '.join(terms)}, chosen on {len(judged_set.queries):,} queries of"
            f" {judged_set.name}, where they have nDCG@10 {quality:.3f}"
        )
        return cls(parts, weights, note)

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the k best documents per query among the first ones of each system."""
        runs = [part.search(queries, FUSED_DOCUMENTS) for part in self._parts]
        return fuse_scores(runs, self.weights, k)


class RerankedSystem:
    """A system whose first documents a cross-encoder reorders."""

    def __init__(
        self,
        first: System,
        reranker: str,
        encoder: PairEncoder,
        corpus: Corpus,
        depth: int = 100,
        precision: Precision = "fp32",
    ) -> None:
        self.name, self.note = f"{first.name} + {reranker}", first.note
        self._first, self._encoder = first, encoder
        self._documents = dict(zip(corpus.ids, corpus.texts, strict=True))
        self._depth, self._precision = depth, precision
        self.preparation = first.preparation + Preparation(weight_bytes=weight_bytes(encoder))

    def search(self, queries: Mapping[str, str], k: int) -> RetrievalRun:
        """Returns the k best documents per query, of which the first `depth` are reordered."""
        run = self._first.search(queries, max(k, self._depth))
        return rerank(
            self._encoder, run, queries, self._documents, self._depth, precision=self._precision
        )


def learn_weights(
    parts: Sequence[System], judged_set: RetrievalSet
) -> tuple[tuple[float, ...], float]:
    """Returns the weights with the best nDCG@10 on judged queries, and that nDCG@10."""
    queries = judged_set.queries_by_id
    runs = [
        measured_run(part.search(queries, FUSED_DOCUMENTS), judged_set, FUSED_DOCUMENTS)
        for part in parts
    ]
    return choose_weights(runs, judged_set.qrels)


def _preparation_of(parts: Sequence[System]) -> Preparation:
    return sum((part.preparation for part in parts), Preparation())
