"""Encoding, search, evaluation, re-ranking, mining and teachers on the pretend device: the results
are those of the CPU.
"""

import numpy as np
import pytest
import torch
from late_interaction_toys import TEXTS, make_marked_bert, new_encoder
from mining_toys import NO_LIMITS, generate_pairs, run_job
from pretend_device import DEVICE, UPLOADS, WAITS, on_pretend_device, reset_counts
from toy_models import SENTENCES

from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Row
from trainer.evaluation.evaluate import evaluate, evaluate_reranking
from trainer.mining.choose import MiningRules
from trainer.mining.teacher import by_pair_encoder, pair_scorer
from trainer.models.cross_encoder import CrossEncoderSettings, build_cross_encoder
from trainer.models.dense import read_encoder
from trainer.retrieval.encoding.encode import encode
from trainer.retrieval.encoding.taught_vectors import taught_vectors
from trainer.retrieval.rerank import score_pairs
from trainer.vectors import device_copies
from trainer.vectors.dense import DenseVectors
from trainer.vectors.vectors import nearest_documents

PAIRS = [(query, document) for query in SENTENCES for document in TEXTS]
JUDGED = RetrievalSet(
    "toy",
    tuple(f"q{number}" for number in range(len(SENTENCES))),
    SENTENCES,
    tuple(f"d{number}" for number in range(len(TEXTS))),
    TEXTS,
    {f"q{number}": {f"d{(2 * number) % len(TEXTS)}": 1} for number in range(len(SENTENCES))},
)


@pytest.fixture
def late_folder(tmp_path):
    make_marked_bert(tmp_path / "marked")
    return tmp_path / "marked"


def encoder_of(kind, toy_folder, late_folder):
    torch.manual_seed(1)
    return read_encoder(str(toy_folder("bert"))) if kind == "dense" else new_encoder(late_folder)


def on_both(action):
    """The results of `action(device)` on the CPU and on the device."""
    return on_pretend_device(lambda: (action("cpu"), action(DEVICE)))


def assert_close(results):
    expected, found = results
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=4e-6)


@pytest.mark.parametrize("kind", ["dense", "late interaction"])
@pytest.mark.parametrize("role", ["query", "document"])
def test_vectors_are_those_of_the_cpu(toy_folder, late_folder, kind, role):
    texts = [text for text in TEXTS if text.strip(" ?!")]

    def vectors(device):
        encoder = encoder_of(kind, toy_folder, late_folder).to(device)
        return encode(encoder, texts, role, 60).rows

    assert_close(on_both(vectors))


def test_exact_search_is_that_of_the_cpu():
    generator = np.random.default_rng(0)
    queries, documents = (
        generator.standard_normal((rows, 16)).astype(np.float32) for rows in (70, 9000)
    )

    expected, found = on_both(
        lambda device: nearest_documents(DenseVectors(queries), DenseVectors(documents), 7, device)
    )
    assert all(map(np.array_equal, expected, found))


def test_documents_stay_on_the_device_between_searches(monkeypatch):
    monkeypatch.setattr(device_copies, "has_room", lambda device: True)
    generator = np.random.default_rng(0)
    queries, documents = (
        DenseVectors(generator.standard_normal((rows, 16)).astype(np.float32))
        for rows in (70, 40_000)
    )

    def search():
        counts = []
        for _ in range(2):
            reset_counts()
            nearest_documents(queries, documents, 7, DEVICE)
            counts.append((sum(UPLOADS.values()), sum(WAITS.values())))
        return counts

    blocks, uploads = 3, 2  # of the queries and of the errors of their products
    waits = 2 * blocks + 1  # for the number of pairs, for the pairs, and for the limits at the end
    assert on_pretend_device(search) == [(blocks + uploads, waits), (uploads, waits)]


@pytest.mark.parametrize("kind", ["dense", "late interaction"])
def test_evaluation_is_that_of_the_cpu(toy_folder, late_folder, kind):
    def measure(device):
        encoder = encoder_of(kind, toy_folder, late_folder).to(device)
        metrics = evaluate(encoder, JUDGED, k=3).metrics
        return {name: float(np.mean(values)) for name, values in metrics.items()}

    expected, found = on_both(measure)
    assert found == pytest.approx(expected)
    assert any(expected.values())


def test_reranking_is_that_of_the_cpu(toy_folder):
    folder = toy_folder("bert")

    def measure(device):
        torch.manual_seed(1)
        encoder = build_cross_encoder(CrossEncoderSettings(backbone=str(folder))).to(device)
        result = evaluate_reranking(encoder, JUDGED, k=3)
        return score_pairs(encoder, PAIRS, 60), result.metrics["ndcg@10"]

    (expected, metrics), (found, found_metrics) = on_both(measure)
    assert_close((expected, found))
    np.testing.assert_allclose(found_metrics, metrics)


def test_vectors_of_a_teacher_are_those_of_the_cpu(toy_folder, tmp_path):
    rows = [Row(query, document, (SENTENCES[0],)) for query, document in PAIRS[5:9]]

    def teach(device):
        teacher = read_encoder(str(toy_folder("bert"))).to(device)
        folder = tmp_path / device.partition(":")[0]
        stored = taught_vectors(folder, teacher, rows, 1)
        return stored.names, {role: vectors.rows for role, vectors in stored.vectors.items()}

    (expected_names, expected), (names, found) = on_both(teach)
    for role in expected:
        np.testing.assert_array_equal(names[role], expected_names[role])
        assert_close((np.array(expected[role]), np.array(found[role])))


@pytest.mark.parametrize("with_teacher", [False, True], ids=["own scores", "a teacher's scores"])
def test_mined_negatives_are_those_of_the_cpu(toy_folder, tmp_path, with_teacher):
    rows, further = generate_pairs(seed=4, pairs=20)
    folder = toy_folder("bert")

    def mine(device):
        torch.manual_seed(1)
        teacher = build_cross_encoder(CrossEncoderSettings(backbone=str(folder))).to(device)

        def scorer(task, work):
            return pair_scorer(by_pair_encoder(teacher, "fp32"), task)

        lines, _, _ = run_job(
            tmp_path / device.partition(":")[0],
            rows,
            folder,
            MiningRules(negatives=3, depth=12, bm25_negatives=1, **NO_LIMITS),
            further,
            teacher=scorer if with_teacher else None,
            kind=lambda path: read_encoder(path).to(device),
        )
        return lines

    expected, found = on_both(mine)
    assert [line["negatives"] for line in found] == [line["negatives"] for line in expected]
    assert_close(
        [[score for line in lines for score in line["scores"]] for lines in (expected, found)]
    )
