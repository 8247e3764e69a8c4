"""The second stage: a cross-encoder puts the best documents of a first stage in a new order."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float32

from trainer.batch import Texts
from trainer.collectives import sum_over_ranks
from trainer.errors import BadData, BadModel
from trainer.microbatches import micro_batches
from trainer.models.encoder import PairEncoder
from trainer.progress import Phase, phase
from trainer.retrieval.encoding.encode import (
    default_micro_batch_tokens,
    inference,
    own_micro_batches,
)
from trainer.strategies.devices import Precision

_PAIRS_AT_ONCE = 8192


def score_pairs(
    encoder: PairEncoder,
    pairs: Sequence[tuple[str, str]],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
    alone: bool = False,
) -> Float32[np.ndarray, " pair"]:
    """One score per (query, document) pair, in the order given. A pair that occurs twice is scored
    once.

    Pairs are tokenised in slices, one slice ahead of the model, and go through it in order of
    length, as many at once as stay within `micro_batch_tokens` padded tokens; several ranks share
    them out, unless this one is `alone` with its pairs. Raises BadModel when a score is not finite.
    """
    distinct = list(dict.fromkeys(pairs))
    scores = np.empty(len(distinct), dtype=np.float32)
    slices = [
        distinct[start : start + _PAIRS_AT_ONCE]
        for start in range(0, len(distinct), _PAIRS_AT_ONCE)
    ]
    budget = micro_batch_tokens or default_micro_batch_tokens(encoder.device)
    with (
        phase("scoring pairs", len(distinct), "pairs") as progress,
        inference(encoder, precision),
        ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as ahead,
    ):
        waiting = [ahead.submit(_tokens, encoder, some) for some in slices[:1]]
        for number, some in enumerate(slices):
            texts = waiting.pop().result()
            waiting = [
                ahead.submit(_tokens, encoder, following)
                for following in slices[number + 1 : number + 2]
            ]
            start = number * _PAIRS_AT_ONCE
            scores[start : start + len(some)] = _scores(encoder, texts, budget, alone, progress)
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
    encoder: PairEncoder, texts: Texts, budget: int, alone: bool, progress: Phase
) -> Float32[np.ndarray, " pair"]:
    scores = torch.zeros(len(texts), device=encoder.device)
    own = (
        (rows, encoder(texts.select(rows).to(encoder.device)))
        for rows in micro_batches(texts.lengths, budget)
    )
    for rows, found in own if alone else own_micro_batches(encoder, texts, budget, progress):
        scores[rows.to(encoder.device)] = found.float()
    return (scores if alone else sum_over_ranks(scores)).cpu().numpy()


def rerank(
    encoder: PairEncoder,
    run: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    depth: int,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> dict[str, dict[str, float]]:
    """Query id to document id to score: of each query's first `depth` documents the cross-encoder's
    score; the others behind them, in their order.

    `queries` and `documents` are the texts by id. Of equal scores the first stage's order is kept,
    by the least difference there is. Raises BadData when no query has a candidate, BadModel when a
    score is not finite.
    """
    ordered = {
        query: sorted(hits, key=lambda document: -hits[document]) for query, hits in run.items()
    }
    pairs = [
        (queries[query], documents[document])
        for query, hits in ordered.items()
        for document in hits[:depth]
    ]
    if not pairs:
        raise BadData(
            f"the first stage has found no document for any of {len(run)} queries, so there is"
            " nothing to put in a new order"
        )
    scores = iter(score_pairs(encoder, pairs, micro_batch_tokens, precision).tolist())
    return {
        query: _in_new_order(hits, [next(scores) for _ in hits[:depth]])
        for query, hits in ordered.items()
    }


def _in_new_order(hits: Sequence[str], scores: Sequence[float]) -> dict[str, float]:
    """The best score first; documents without one follow, each one lower than the one before.

    No two are equal: metrics put equal scores in the order of the ids, and half precision gives
    many. Of equal ones each later has the next smaller number.
    """
    order = sorted(range(len(scores)), key=lambda rank: -scores[rank])
    lowest = min(scores, default=0.0)
    wanted = {hits[rank]: scores[rank] for rank in order} | {
        document: lowest - 1.0 - number for number, document in enumerate(hits[len(scores) :])
    }
    found, below = dict[str, float](), np.float32(np.inf)
    for document, score in wanted.items():
        below = min(np.float32(score), np.nextafter(below, np.float32(-np.inf)))
        found[document] = float(below)
    return found
