"""What teachers teach, against its formula in NumPy and against sentence-transformers; the
divergence in tiles against the whole matrix.
"""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    DistillKLDivLoss,
    MarginMSELoss,
    MatryoshkaLoss,
    MSELoss,
    MultipleNegativesRankingLoss,
)
from teachers import draw_vectors, teacher_of
from twins import SmallEncoder, alike, full_batch, value_and_gradient

from trainer import log_partition as partition
from trainer.batch import Batch, identity
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.formats.folder import save_encoder
from trainer.objectives import divergence
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.matryoshka import encode_once, shorten_vectors
from trainer.objectives.teachers import (
    BatchDistribution,
    CandidateDistribution,
    Margins,
    TeacherVectors,
)
from trainer.scores import dot, maxsim


def softmax(scores):
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def kl(taught, student):
    return np.mean((taught * (np.log(taught) - np.log(student))).sum(1))


def student_scores(encoder, batch):
    return (encoder(batch.queries) @ encoder(batch.documents).T).detach().numpy()


def teacher_scores(batch, dimensions=5, tokens=False, seed=0):
    """Every query with every document, by loops."""
    queries, documents = (
        [
            np.float64(each[each.any(-1)] if tokens else each)
            for each in draw_vectors(texts, dimensions, tokens, seed)
        ]
        for texts in (batch.queries, batch.documents)
    )
    if tokens:
        return np.array(
            [[(query @ document.T).max(1).sum() for document in documents] for query in queries]
        )
    return np.array([[query @ document for document in documents] for query in queries])


def own(scores, each=3):
    return np.stack([row[number * each : (number + 1) * each] for number, row in enumerate(scores)])


class TestBatchDistribution:
    def test_loss_equals_the_formula_with_two_teachers(self):
        encoder, batch = SmallEncoder(), full_batch()
        teachers = (teacher_of(), teacher_of(tokens=True))
        found = BatchDistribution(dot, teachers, 0.3, 0.7)(batch, encoder)
        taught = (
            softmax(teacher_scores(batch) / 0.7) + softmax(teacher_scores(batch, tokens=True) / 0.7)
        ) / 2
        assert found.item() == pytest.approx(
            kl(taught, softmax(student_scores(encoder, batch) / 0.3)), abs=1e-6
        )

    @pytest.mark.parametrize("score", [dot, maxsim], ids=["dot", "maxsim"])
    def test_tiles_equal_the_whole_matrix(self, score, monkeypatch):
        shape = (3, 4) if score is maxsim else (4,)
        queries, documents = (
            torch.randn(count, *shape, dtype=torch.float64, requires_grad=True) for count in (5, 15)
        )
        taught = torch.randn(5, 15, dtype=torch.float64).log_softmax(1)
        student = (score(queries, documents) / 0.4).log_softmax(1)
        wanted = value_and_gradient(
            (taught.exp() * (taught - student)).sum(1) @ torch.arange(5.0, dtype=torch.float64),
            [queries, documents],
        )
        monkeypatch.setattr(partition, "TILE_SCORES", {"cpu": 24, "cuda": 24})
        monkeypatch.setitem(partition.KEPT_NUMBERS, "cpu", 10)
        found = divergence.kl_over_batch(
            queries, documents, score, 0.4, lambda some, others: taught[some, others]
        )
        assert alike(
            value_and_gradient(
                found @ torch.arange(5.0, dtype=torch.float64), [queries, documents]
            ),
            wanted,
            1e-10,
        )

    def test_matrix_of_all_scores_is_not_stored(self, monkeypatch):
        """Between forward and backward pass autograd holds embeddings alone: numbers for each text,
        not for each pair.
        """
        monkeypatch.setitem(partition.KEPT_NUMBERS, "cpu", 0)
        queries, documents = (torch.randn(count, 4, requires_grad=True) for count in (200, 400))
        kept = []

        def keep(tensor):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            teachers = [(torch.randn(200, 3), torch.randn(400, 3), dot)]
            divergence.kl_over_batch(
                queries, documents, dot, 0.3, divergence.log_shares(teachers, 1.0)
            ).mean()
        assert 0 < max(kept) <= 400 * 4


class TestOwnCandidates:
    def test_distribution_equals_the_formula(self):
        encoder, batch = SmallEncoder(), full_batch()
        found = CandidateDistribution(dot, (teacher_of(), teacher_of(tokens=True)), 0.3, 0.7)(
            batch, encoder
        )
        taught = (
            softmax(own(teacher_scores(batch)) / 0.7)
            + softmax(own(teacher_scores(batch, tokens=True)) / 0.7)
        ) / 2
        assert found.item() == pytest.approx(
            kl(taught, softmax(own(student_scores(encoder, batch)) / 0.3)), abs=1e-6
        )

    def test_margins_equal_the_formula(self):
        encoder, batch = SmallEncoder(), full_batch()
        taught, student = (
            own(teacher_scores(batch, tokens=True)),
            own(student_scores(encoder, batch)),
        )
        wanted = np.mean(((student[:, :1] - student[:, 1:]) - (taught[:, :1] - taught[:, 1:])) ** 2)
        assert Margins(dot, (teacher_of(tokens=True),))(batch, encoder).item() == pytest.approx(
            wanted, abs=1e-6
        )


@pytest.mark.parametrize("cosine", [False, True])
def test_vector_loss_equals_the_formula_after_a_projection(cosine):
    encoder, batch = SmallEncoder(), full_batch()
    head = torch.nn.Linear(6, 9, bias=False).double()
    found = TeacherVectors(teacher_of(9), head, cosine)(batch, encoder)
    errors = []
    for texts in (batch.queries, batch.documents):
        student = encoder(texts).detach().numpy() @ head.weight.detach().numpy().T
        taught = draw_vectors(texts, 9, False).double().numpy()
        if cosine:
            errors += [
                1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other)
                for one, other in zip(student, taught, strict=True)
            ]
        else:
            errors += [
                ((one - other) ** 2).mean() for one, other in zip(student, taught, strict=True)
            ]
    assert found.item() == pytest.approx(np.mean(errors), abs=1e-9)
    assert torch.autograd.grad(found, head.weight)[0].norm() > 1e-3, "the projection learns"


class TestOnce:
    def test_same_texts_are_encoded_once_and_others_again(self):
        encoder, batch = SmallEncoder(), full_batch()
        encode = encode_once(encoder)
        assert encode(batch.queries) is encode(batch.queries)
        assert not torch.equal(encode(batch.documents)[:6], encode(batch.queries))
        assert encoder.encoded == [len(batch.queries), len(batch.documents)]


ROWS = [
    ("disk", "Delete a disk.", "an account"),
    ("storage account", "Create a storage account.", "a machine"),
    ("show", "Show how many.", "list one"),
]


@pytest.fixture(scope="module")
def both(toy_folder, tmp_path_factory):
    """One encoder as ours and as sentence-transformers', with a batch and its features."""
    encoder = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert")), lora=None))
    folder = tmp_path_factory.mktemp("both") / "model"
    save_encoder(encoder, folder)
    theirs = SentenceTransformer(str(folder), device="cpu")
    batch = Batch(
        encoder.tokenize([row[0] for row in ROWS], "query"),
        encoder.tokenize([text for row in ROWS for text in row[1:]], "document"),
        torch.tensor([[identity(row[1])] for row in ROWS]),
    )
    return (
        encoder,
        theirs,
        batch,
        [theirs.preprocess([row[column] for row in ROWS]) for column in range(3)],
    )


class TestAgainstSentenceTransformers:
    def taught(self, batch):
        return torch.tensor(own(teacher_scores(batch), 2), dtype=torch.float32)

    def test_margin_mse_equals_sentence_transformers(self, both):
        encoder, theirs, batch, features = both
        taught = self.taught(batch)
        wanted = MarginMSELoss(theirs)(features, taught[:, :1] - taught[:, 1:])
        assert Margins(dot, (teacher_of(),))(batch, encoder).item() == pytest.approx(
            wanted.item(), rel=1e-5
        )

    def test_distillation_over_candidates_equals_sentence_transformers(self, both):
        encoder, theirs, batch, features = both
        wanted = DistillKLDivLoss(theirs, temperature=1.0)(features, self.taught(batch))
        found = CandidateDistribution(dot, (teacher_of(),), 1.0, 1.0)(batch, encoder)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-4)

    def test_mse_of_vectors_equals_sentence_transformers(self, both):
        encoder, theirs, batch, features = both
        texts = [
            batch.queries,
            batch.documents.select(torch.arange(0, 6, 2)),
            batch.documents.select(torch.arange(1, 6, 2)),
        ]
        wanted = MSELoss(theirs)(
            features, torch.stack([draw_vectors(some, 32, False) for some in texts], 1)
        )
        assert TeacherVectors(teacher_of(32), None, cosine=False)(
            batch, encoder
        ).item() == pytest.approx(wanted.item(), rel=1e-5)

    def test_matryoshka_equals_sentence_transformers(self, both):
        encoder, theirs, batch, features = both
        inner = MultipleNegativesRankingLoss(theirs, scale=1 / 0.2)
        wanted = MatryoshkaLoss(
            theirs, inner, matryoshka_dims=[32, 16, 4], matryoshka_weights=[1, 0.5, 2]
        )(features, None)
        encode, total = encode_once(encoder), 0
        for width, weight in {32: 1, 16: 0.5, 4: 2}.items():
            total += (
                weight
                * Contrastive(dot)(batch, shorten_vectors(encode, width, normalize=True), 0.2).loss
            )
        assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
