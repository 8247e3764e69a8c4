"""An evaluation does not depend on the number of processes that share it."""

import itertools

import numpy as np
import pytest
from ranks import on_ranks

from trainer.collectives import ranks
from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.evaluate import evaluate, evaluate_reranking
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import read_encoder
from trainer.models.late_interaction import (
    LateInteractionSettings,
    build_late_interaction_encoder,
)

WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "delete", "show")
DOCUMENTS = tuple(
    " ".join(words)
    for words in itertools.islice(
        itertools.chain(*(itertools.product(WORDS, repeat=length) for length in (1, 2, 3, 4))), 5000
    )
)


def first_documents(count):
    """A set of the first documents. A query is the text of its document, so that it is found."""
    rows = range(0, count, count // 40)
    return RetrievalSet(
        "toy test",
        tuple(f"q{row}" for row in rows),
        tuple(DOCUMENTS[row] for row in rows),
        tuple(f"d{row}" for row in range(count)),
        DOCUMENTS[:count],
        {f"q{row}": {f"d{row}": 1} for row in rows},
    )


def measured(family, backbone, documents):
    """The values per query, the first documents with their scores, and the number of ranks."""
    judged_set = first_documents(documents)
    if family == "cross-encoder":
        cross_encoder = build_cross_encoder(CrossEncoderSettings(backbone=backbone)).eval()
        result = evaluate_reranking(cross_encoder, judged_set, micro_batch_tokens=500)
    elif family == "dense":
        result = evaluate(read_encoder(backbone), judged_set, micro_batch_tokens=2000)
    else:
        settings = LateInteractionSettings(
            backbone=backbone,
            projection_dimensions=16,
            query_marker="",
            document_marker="",
            query_expansion=False,
            lora=None,
        )
        encoder = build_late_interaction_encoder(settings).eval()
        result = evaluate(encoder, judged_set, micro_batch_tokens=2000)
    return {name: values.tolist() for name, values in result.metrics.items()}, result.top, ranks()


@pytest.mark.parametrize(
    ("family", "documents"), [("dense", 5000), ("late interaction", 1000), ("cross-encoder", 1000)]
)
def test_evaluation_is_identical_on_1_2_and_4_ranks(family, documents, toy_folder):
    arguments = (family, str(toy_folder("bert")), documents)
    (metrics, top, _), *others = [
        result for count in (1, 2, 4) for result in on_ranks(count, measured, *arguments)
    ]
    assert [count for *_, count in others] == [2, 2, 4, 4, 4, 4]
    for other_metrics, other_top, _ in others:
        assert other_metrics == metrics
        assert other_top == top, "documents and scores, bit by bit"
    assert 0 < np.mean(metrics["ndcg@10"]) <= 1
