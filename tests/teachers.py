"""Teachers for tests: random vectors per text or per token, drawn from the identity of the text, so
that they are the same on every rank.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from trainer.batch import Batch, Texts
from trainer.objectives.teachers import Teacher
from trainer.scores import dot, maxsim


def draw_vectors(texts: Texts, dimensions: int, tokens: bool, seed: int = 0) -> Tensor:
    """Unit vectors in float32: one per text, or 2 to 5 per text, padded with zeros."""
    vectors = []
    for name in texts.identities.tolist():
        generator = torch.Generator().manual_seed(name % 2**40 + seed)
        count = 2 + name % 4 if tokens else 1
        vectors.append(
            functional.normalize(torch.randn(count, dimensions, generator=generator), dim=-1)
        )
    if tokens:
        return torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True)
    return torch.cat(vectors)


def teacher_of(dimensions: int = 5, tokens: bool = False, seed: int = 0) -> Teacher:
    """A teacher with vectors for any text."""
    return Teacher(
        lambda batch: tuple(
            draw_vectors(texts, dimensions, tokens, seed)
            for texts in (batch.queries, batch.documents)
        ),
        maxsim if tokens else dot,
        dimensions,
    )


def student_as_teacher(encode: Callable[[Texts], Tensor], score: Callable[..., Tensor]) -> Teacher:
    """The student as its own teacher."""

    def embeddings(batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return encode(batch.queries), encode(batch.documents)

    return Teacher(embeddings, score, 0)
