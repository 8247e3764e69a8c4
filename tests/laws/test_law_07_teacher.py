"""Law 7: a teacher equal to the student gives zero loss and zero gradient; a constant a query
changes nothing.
"""

import pytest
import torch
from teachers import student_as_teacher, teacher_of
from twins import SmallEncoder, full_batch, value_and_gradient

from trainer import losses
from trainer.objectives.teachers import (
    BatchDistribution,
    CandidateDistribution,
    Margins,
    TeacherVectors,
)
from trainer.scores import dot, maxsim

LESSONS = {
    "batch": lambda score, *teachers: BatchDistribution(score, teachers, 0.2, 0.2),
    "candidates": lambda score, *teachers: CandidateDistribution(score, teachers, 0.2, 0.2),
    "margins": lambda score, *teachers: Margins(score, teachers),
}


@pytest.mark.parametrize("loss", [losses.kl, losses.margin_mse])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_teacher_equal_to_the_student_teaches_nothing(loss, shift):
    scores = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    found = loss(scores, scores.detach() + shift * torch.arange(5)[:, None])
    found.backward()
    assert abs(found.item()) < 1e-12
    assert scores.grad.norm() < 1e-12


@pytest.mark.parametrize("loss", [losses.kl, losses.margin_mse])
def test_other_teacher_teaches_something(loss):
    scores = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    found = loss(scores, scores.detach().flip(1))
    found.backward()
    assert found.item() > 1e-2
    assert scores.grad.norm() > 1e-2


@pytest.mark.parametrize("score", [dot, maxsim], ids=["dot", "maxsim"])
class TestTheStudentAsItsOwnTeacher:
    def student(self, score):
        """An encoder of one vector a text, or of three copies of it, turned, as if of three
        tokens.
        """
        encoder, turn = (
            SmallEncoder(),
            torch.linalg.qr(torch.randn(3, 6, 6, dtype=torch.float64))[0],
        )
        return encoder, (
            encoder
            if score is dot
            else lambda texts: torch.einsum("t d, k e d -> t k e", encoder(texts), turn)
        )

    @pytest.mark.parametrize("lesson", LESSONS)
    def test_teacher_equal_to_the_student_teaches_nothing(self, lesson, score):
        encoder, encode = self.student(score)
        loss = LESSONS[lesson](score, student_as_teacher(encode, score))(full_batch(), encode)
        _, gradient = value_and_gradient(loss, list(encoder.parameters()))
        assert abs(loss.item()) < 1e-12
        assert gradient.norm() < 1e-12

    @pytest.mark.parametrize("lesson", LESSONS)
    def test_other_teacher_teaches_something(self, lesson, score):
        encoder, encode = self.student(score)
        teachers = (student_as_teacher(encode, score), teacher_of(tokens=True))
        loss = LESSONS[lesson](score, *teachers)(full_batch(), encode)
        _, gradient = value_and_gradient(loss, list(encoder.parameters()))
        assert loss.item() > 1e-4
        assert gradient.norm() > 1e-3


@pytest.mark.parametrize("cosine", [False, True])
def test_own_vectors_teach_nothing(cosine):
    encoder = SmallEncoder()
    loss = TeacherVectors(student_as_teacher(encoder, dot), None, cosine)(full_batch(), encoder)
    assert value_and_gradient(loss, list(encoder.parameters()))[1].norm() < 1e-12
    assert abs(loss.item()) < 1e-12
    assert TeacherVectors(teacher_of(6), None, cosine)(full_batch(), encoder).item() > 1e-2
