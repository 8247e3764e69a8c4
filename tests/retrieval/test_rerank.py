"""Re-ranking: a score a pair in the order given, the first documents of each query in a new order,
and what cannot be ranked named.
"""

import numpy as np
import pytest
import torch
from toy_models import SENTENCES

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData, BadModel
from trainer.evaluation.evaluate import evaluate_reranking, evaluate_run, rerank_run
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.retrieval import rerank as module
from trainer.retrieval.bm25 import bm25_run
from trainer.retrieval.fusion import rank_documents
from trainer.retrieval.rerank import rerank, score_pairs

QUERIES = {"q1": "disk gone", "q2": "a storage account in the west", "q3": "all machines"}
DOCUMENTS = {
    **{f"d{number}": text for number, text in enumerate(SENTENCES)},
    "d4": "Show a machine",
    "d5": "the region, the disk and more " * 4,
}


@pytest.fixture(scope="module")
def encoder(toy_folder):
    torch.manual_seed(7)
    return build_cross_encoder(CrossEncoderSettings(backbone=str(toy_folder("bert")))).eval()


@torch.no_grad()
def one_by_one(encoder, pairs):
    return np.array(
        [float(encoder(encoder.tokenize_pairs([query], [document]))) for query, document in pairs]
    )


@pytest.mark.parametrize("budget", [None, 30])
def test_scores_equal_those_of_single_pairs_in_the_same_order(encoder, monkeypatch, budget):
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 5)
    pairs = [(query, document) for query in QUERIES.values() for document in DOCUMENTS.values()]
    pairs = [*pairs, pairs[3], pairs[0]]
    encoder.train()
    found = score_pairs(encoder, pairs, budget)
    assert encoder.training, "left as it was found"
    encoder.eval()
    wanted = one_by_one(encoder, pairs)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert wanted.std() > 1e-2
    assert len(score_pairs(encoder, [])) == 0


def test_first_documents_are_reranked_and_the_others_follow(encoder):
    run = {
        query: {document: 9.0 - place for place, document in enumerate(DOCUMENTS)}
        for query in QUERIES
    }
    found = rerank(encoder, run, QUERIES, DOCUMENTS, depth=4)
    for query, text in QUERIES.items():
        first = sorted(
            ["d0", "d1", "d2", "d3"],
            key=lambda document: -one_by_one(encoder, [(text, DOCUMENTS[document])])[0],
        )
        assert list(found[query]) == [*first, "d4", "d5"]
        values = list(found[query].values())
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)
    assert any(list(hits) != list(DOCUMENTS) for hits in found.values())


def test_first_stage_breaks_ties_in_metrics_too(encoder, monkeypatch):
    """They would order them by their ids; and far from zero the steps of those behind are less than
    a float32 can hold.
    """
    run = {"q1": {document: 9.0 - place for place, document in enumerate(DOCUMENTS)}}
    for scores in ([2.0, 2.0, 3.0, 2.0], [0.0] * 4, [3.0e7] * 4, [-3.0e7] * 4):
        monkeypatch.setattr(module, "score_pairs", lambda *_, scores=scores: np.float32(scores))
        found = rerank(encoder, run, QUERIES, DOCUMENTS, depth=4)["q1"]
        first = sorted(range(4), key=lambda place: -scores[place])
        assert (
            [document for document, _ in rank_documents(found)]
            == [*(f"d{place}" for place in first), "d4", "d5"]
            == list(found)
        )
        assert [found[f"d{place}"] for place in range(4)] == pytest.approx(
            scores, rel=1e-6, abs=1e-6
        )


def test_query_without_candidates_gets_none_and_a_run_without_any_is_refused(encoder):
    run = {"q1": {}, "q2": {"d1": 1.0}}
    assert rerank(encoder, run, QUERIES, DOCUMENTS, 10).keys() == {"q1", "q2"}
    assert rerank(encoder, run, QUERIES, DOCUMENTS, 10)["q1"] == {}
    with pytest.raises(BadData, match="no document for any of 2 queries"):
        rerank(encoder, {"q1": {}, "q2": {}}, QUERIES, DOCUMENTS, 10)


def test_non_finite_score_names_its_pair(toy_folder):
    encoder = build_cross_encoder(CrossEncoderSettings(backbone=str(toy_folder("bert"))))
    with torch.no_grad():
        encoder.backbone.get_base_model().classifier.bias.fill_(float("nan"))
    with pytest.raises(BadModel, match="not finite, first for 'disk gone' with 'Delete a disk.'"):
        score_pairs(encoder, [("disk gone", SENTENCES[0])])


def test_cross_encoder_is_evaluated_on_results_of_bm25(encoder):
    held_out = RetrievalSet(
        "toy",
        tuple(QUERIES),
        tuple(QUERIES.values()),
        tuple(DOCUMENTS),
        tuple(DOCUMENTS.values()),
        {"q1": {"d0": 1}, "q2": {"d1": 1}, "q3": {"d2": 1}},
    )
    found = evaluate_reranking(encoder, held_out)
    candidates = bm25_run(held_out, 20)
    wanted = evaluate_run(rerank_run(encoder, candidates, held_out, 20), held_out, "model")
    assert found.top == wanted.top
    for query, hits in found.top.items():
        assert {document for document, _ in hits} == set(candidates[query])
        for document, score in hits:
            assert score == pytest.approx(
                one_by_one(encoder, [(QUERIES[query], DOCUMENTS[document])])[0], abs=1e-5
            )
