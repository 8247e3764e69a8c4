"""Teachers for tests: embeddings drawn from the identity of a text, so that every rank knows the
same, of one vector a text or one a token.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from trainer.batch import Batch, Texts
from trainer.objectives.teachers import Teacher
from trainer.scores import dot, maxsim


def drawn(texts: Texts, dimensions: int, tokens: bool, seed: int = 0) -> Tensor:
    """Unit vectors, float32; of tokens between 2 and 5 a text, filled up with zeros to the longest
    here.
    """
    found = []
    for name in texts.identities.tolist():
        generator = torch.Generator().manual_seed(name % 2**40 + seed)
        count = 2 + name % 4 if tokens else 1
        found.append(
            functional.normalize(torch.randn(count, dimensions, generator=generator), dim=-1)
        )
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True) if tokens else torch.cat(found)


def teacher_of(dimensions: int = 5, tokens: bool = False, seed: int = 0) -> Teacher:
    """A teacher that knows any text."""
    return Teacher(
        lambda batch: tuple(
            drawn(texts, dimensions, tokens, seed) for texts in (batch.queries, batch.documents)
        ),
        maxsim if tokens else dot,
        dimensions,
    )


def same_as(encode: Callable[[Texts], Tensor], score: Callable[..., Tensor]) -> Teacher:
    """The student as its own teacher."""

    def embeddings(batch: Batch) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return encode(batch.queries), encode(batch.documents)

    return Teacher(embeddings, score, 0)
