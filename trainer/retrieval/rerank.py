"""Re-ranking: a cross-encoder reorders the best documents of a first search."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32

from trainer.batch import Texts
from trainer.collectives import sum_over_ranks
from trainer.errors import BadData, BadModel
from trainer.models.encoder import PairEncoder
from trainer.progress import Phase, phase
from trainer.retrieval.encoding.encode import (
    default_micro_batch_tokens,
    inference,
    own_micro_batches,
    tokenized_slices,
)
from trainer.strategies.devices import Precision

_PAIRS_AT_ONCE = 8192


def score_pairs(
    encoder: PairEncoder,
    pairs: Sequence[tuple[str, str]],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
    one_rank: bool = False,
) -> Float32[np.ndarray, " pair"]:
    """Returns one score per (query, document) pair, in the order given.

    A pair that occurs twice is scored once. Pairs are tokenised in slices, one slice ahead of the
    model, and cut into micro-batches of at most `micro_batch_tokens` tokens. Ranks share the
    micro-batches, unless `one_rank` is true. Raises BadModel when a score is not finite.
    """
    distinct = list(dict.fromkeys(pairs))
    scores = np.empty(len(distinct), dtype=np.float32)
    budget = micro_batch_tokens or default_micro_batch_tokens(encoder)
    start = 0
    with (
        phase("scoring pairs", len(distinct), "pairs") as progress,
        inference(encoder, precision),
    ):
        for texts in tokenized_slices(distinct, _PAIRS_AT_ONCE, partial(_tokens, encoder)):
            stop = start + len(texts)
            scores[start:stop] = _scores(encoder, texts, budget, one_rank, progress)
            start = stop
    if not np.isfinite(scores).all():
        query, document = distinct[int((~np.isfinite(scores)).nonzero()[0][0])]
        raise BadModel(
            f"the cross-encoder gives a score that is not finite, first for {query[:60]!r} with"
            f" {document[:60]!r}; its weights are damaged or overflow in {precision}: try precision"
            " fp32, or train again with a lower learning rate"
        )
    place = {pair: number for number, pair in enumerate(distinct)}
    return scores[[place[pair] for pair in pairs]]


def _tokens(encoder: PairEncoder, pairs: Sequence[tuple[str, str]]) -> Texts:
    return encoder.tokenize_pairs(
        [query for query, _ in pairs], [document for _, document in pairs]
    )


def _scores(
    encoder: PairEncoder, texts: Texts, budget: int, one_rank: bool, progress: Phase
) -> Float32[np.ndarray, " pair"]:
    scores = torch.zeros(len(texts), device=encoder.device)
    for rows, batch_scores in own_micro_batches(encoder, texts, budget, progress, one_rank):
        scores[rows.to(encoder.device)] = batch_scores.float()
    return (scores if one_rank else sum_over_ranks(scores)).cpu().numpy()


def rerank(
    encoder: PairEncoder,
    run: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    depth: int,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> dict[str, dict[str, float]]:
    """Returns query id to document id to score.

    The first `depth` documents of each query get the cross-encoder's score. The others follow them
    in their order. `queries` and `documents` are texts by id. Equal scores stay in the order of the
    first search: the later one becomes the next smaller number. Raises BadData when no query has a
    candidate, BadModel when a score is not finite.
    """
    ranked_hits = {
        query: sorted(hits, key=lambda document: -hits[document]) for query, hits in run.items()
    }
    pairs = [
        (queries[query], documents[document])
        for query, hits in ranked_hits.items()
        for document in hits[:depth]
    ]
    if not pairs:
        raise BadData(
            f"the first search found no document for any of {len(run)} queries, so there is nothing"
            " to re-rank; check that the queries fit the documents"
        )
    scores = iter(score_pairs(encoder, pairs, micro_batch_tokens, precision).tolist())
    return {
        query: _in_new_order(hits, [next(scores) for _ in hits[:depth]])
        for query, hits in ranked_hits.items()
    }


def _in_new_order(hits: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """Returns the documents with a score, best first, then the others with lower scores.

    No two scores are equal, because metrics sort equal scores by id and half precision gives many.
    """
    order = sorted(range(len(scores)), key=lambda rank: -scores[rank])
    lowest = min(scores, default=0.0)
    ordered_scores = {hits[rank]: scores[rank] for rank in order} | {
        document: lowest - 1.0 - number for number, document in enumerate(hits[len(scores) :])
    }
    distinct_scores, previous = dict[str, float](), np.float32(np.inf)
    for document, score in ordered_scores.items():
        previous = min(np.float32(score), np.nextafter(previous, np.float32(-np.inf)))
        distinct_scores[document] = float(previous)
    return distinct_scores
