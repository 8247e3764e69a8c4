"""What the fast code is compared with: losses in plain loops, a small encoder that sees one text at
a time, and how two gradients are compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.batch import Batch, Texts, identity
from trainer.log_partition import ExcludedPairs, TilePairs
from trainer.objectives.exclusions import Exclusion, excluded_documents
from trainer.objectives.objective import Outcome

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


class SmallEncoder(nn.Module):
    """Mean of the token vectors, dropout, one layer, length 1. No text sees another; `encoded`
    lists how many texts each call had.
    """

    def __init__(
        self,
        dtype: torch.dtype = torch.float64,
        dropout: float = 0.0,
        vocabulary: int = 40,
        dimensions: int = 6,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.tokens = nn.Parameter(torch.randn(vocabulary, 8, generator=generator).to(dtype))
        self.weight = nn.Parameter(torch.randn(dimensions, 8, generator=generator).to(dtype))
        self.dropout: nn.Module = nn.Dropout(dropout)
        self.encoded: list[int] = []

    def forward(self, texts: Texts) -> Tensor:
        self.encoded.append(len(texts))
        means = torch.stack(
            [self.tokens[ids].mean(0) for ids in texts.tokens.split(texts.lengths.tolist())]
        )
        return functional.normalize(torch.tanh(self.dropout(means) @ self.weight.T), dim=-1)


def texts_of(words: Sequence[str]) -> Texts:
    """One token a letter, so texts differ in length; the identity is the text's."""
    return Texts.of(
        [[1 + (ord(letter) - ord("a")) % 39 for letter in text] for text in words],
        [identity(text) for text in words],
    )


def batch_of(
    rows: Sequence[tuple[str, ...]],
    known: Sequence[Sequence[str]] | None = None,
    labels: Sequence[Sequence[float]] | None = None,
) -> Batch:
    """A batch from rows of query, positive, negatives. `known`: all positives of each query;
    without it, the row's own.
    """
    positives = [list(map(identity, more)) for more in known or [[row[1]] for row in rows]]
    widest = max(map(len, positives))
    return Batch(
        queries=texts_of([row[0] for row in rows]),
        documents=texts_of([text for row in rows for text in row[1:]]),
        known_positives=torch.tensor([ids + [-1] * (widest - len(ids)) for ids in positives]),
        labels=None if labels is None else torch.tensor(labels),
        sample_ids=tuple(f"rows:{number}" for number in range(1, len(rows) + 1)),
    )


ROWS = (
    ("delete", "removedisk", "createdisk", "listalldisks"),
    ("make", "createdisk", "removedisk", "az"),
    ("show", "listalldisks", "q", "createvault"),
    ("showall", "describethemone", "listalldisks", "q"),
    ("delete", "dropdisk", "zebra", "createvault"),
    ("make", "createdisk", "show", "removedisk"),
)
"""Everything that can go wrong among the candidates: a query twice with two positives, the same
positive twice, a positive that is another row's negative, a query that is another row's document, a
negative that two rows share. Lengths from 1 to 15.
"""

KNOWN = (
    ("removedisk", "dropdisk"),
    ("createdisk",),
    ("listalldisks",),
    ("describethemone", "listalldisks"),
    ("removedisk", "dropdisk"),
    ("createdisk",),
)
TEACHER = (
    (4.0, 1.0, -2.0),
    (0.5, 0.0, 3.0),
    (7.0, 6.0, 5.0),
    (1.0, 1.0, 1.0),
    (-3.0, -5.0, 2.0),
    (2.0, 0.0, 0.0),
)
LABELS = ((3.0,), (1.0,), (2.0,), (2.0,), (0.5,), (3.0,))


def full_batch() -> Batch:
    """ROWS with all their known positives."""
    return batch_of(ROWS, KNOWN)


def graded_batch() -> Batch:
    """TilePairs with a grade, some grades equal."""
    return batch_of([row[:2] for row in ROWS], labels=LABELS)


def taught_batch() -> Batch:
    """ROWS with a teacher's score of every candidate."""
    return batch_of(ROWS, KNOWN, [row[: len(ROWS[0]) - 1] for row in TEACHER])


# The twins: they encode one text at a time and list every candidate.


def one_by_one(texts: Texts, encode: Callable[[Texts], Tensor]) -> list[Tensor]:
    return [encode(texts.select(torch.tensor([row])))[0] for row in range(len(texts))]


def is_candidate(batch: Batch, query: int, document: int) -> bool:
    """Whether the softmax of a query may hold a document: its own positive, or one that is neither
    known as right nor the query itself.
    """
    if document == query * batch.documents_per_query:
        return True
    text = int(batch.documents.identities[document])
    return text not in batch.known_positives[query].tolist() and text != int(
        batch.queries.identities[query]
    )


def cross_entropy_of_first(scores: list[Tensor]) -> Tensor:
    """-log of the first one's share of the exponentials."""
    return functional.cross_entropy(torch.stack(scores)[None], torch.tensor([0]))


def contrastive(
    batch: Batch,
    encode: Callable[[Texts], Tensor],
    temperature: Tensor | float,
    symmetric: bool = False,
) -> Tensor:
    queries, documents = one_by_one(batch.queries, encode), one_by_one(batch.documents, encode)
    each = batch.documents_per_query
    forward, backward = [], []
    for query in range(len(queries)):
        own = query * each
        others = [
            place
            for place in range(len(documents))
            if place != own and is_candidate(batch, query, place)
        ]
        forward.append(
            cross_entropy_of_first(
                [queries[query] @ documents[place] / temperature for place in [own, *others]]
            )
        )
        askers = [
            other
            for other in range(len(queries))
            if other != query and is_candidate(batch, other, own)
        ]
        backward.append(
            cross_entropy_of_first(
                [queries[other] @ documents[own] / temperature for other in [query, *askers]]
            )
        )
    loss = torch.stack(forward).mean()
    return (loss + torch.stack(backward).mean()) / 2 if symmetric else loss


def cosent(batch: Batch, encode: Callable[[Texts], Tensor], temperature: Tensor | float) -> Tensor:
    queries, documents = one_by_one(batch.queries, encode), one_by_one(batch.documents, encode)
    scores = [query @ document for query, document in zip(queries, documents, strict=True)]
    labels = batch.labels.flatten().tolist()
    total = torch.ones((), dtype=scores[0].dtype)
    for better in range(len(scores)):
        for worse in range(len(scores)):
            if labels[better] > labels[worse]:
                total = total + torch.exp((scores[worse] - scores[better]) / temperature)
    return torch.log(total)


def triplet(batch: Batch, encode: Callable[[Texts], Tensor], margin: float) -> Tensor:
    queries, documents = one_by_one(batch.queries, encode), one_by_one(batch.documents, encode)
    each = batch.documents_per_query
    hinges = []
    for number, query in enumerate(queries):
        positive = documents[number * each]
        candidates = [
            place
            for place in range(number * each + 1, (number + 1) * each)
            if is_candidate(batch, number, place)
        ]
        for negative in [documents[place] for place in candidates]:
            hinge = margin - query @ positive + query @ negative
            hinges.append(hinge if hinge > 0 else hinge * 0)
    return torch.stack(hinges).mean()


def distillation(
    batch: Batch, encode: Callable[[Texts], Tensor], temperature: float, teacher_temperature: float
) -> Tensor:
    queries, documents = one_by_one(batch.queries, encode), one_by_one(batch.documents, encode)
    each, total = batch.documents_per_query, 0
    for number, query in enumerate(queries):
        student = torch.stack(
            [
                query @ document / temperature
                for document in documents[number * each : (number + 1) * each]
            ]
        ).softmax(0)
        teacher = (batch.labels[number].to(student) / teacher_temperature).softmax(0)
        total = total + sum(
            share * (share.log() - own.log()) for share, own in zip(teacher, student, strict=True)
        )
    return total / len(queries)


def margin_mse(batch: Batch, encode: Callable[[Texts], Tensor]) -> Tensor:
    queries, documents = one_by_one(batch.queries, encode), one_by_one(batch.documents, encode)
    each, errors = batch.documents_per_query, []
    for number, query in enumerate(queries):
        positive, *negatives = documents[number * each : (number + 1) * each]
        for place, negative in enumerate(negatives, 1):
            taught = float(batch.labels[number, 0] - batch.labels[number, place])
            errors.append((query @ positive - query @ negative - taught) ** 2)
    return torch.stack(errors).mean()


def mask_of(batch: Batch, exclusions: Sequence[Exclusion] = ()) -> Tensor:
    """`excluded_documents` for all queries and documents at once."""
    mask = torch.zeros(len(batch.queries), len(batch.documents), dtype=torch.bool)
    found = excluded_documents(batch, exclusions).in_tile(
        slice(0, mask.shape[0]), slice(0, mask.shape[1])
    )
    if found is not None:
        assert len(torch.stack(found).unique(dim=1).T) == len(found[0]), "each pair once"
        mask[found] = True
    return mask


@dataclass(frozen=True)
class _Mask:
    mask: Tensor

    def in_tile(self, queries: slice, documents: slice) -> TilePairs | None:
        return self.mask[queries, documents].nonzero(as_tuple=True)


def excluding(mask: Tensor) -> ExcludedPairs:
    """A written mask in the form that `log_partition` takes."""
    return _Mask(mask)


# How two results are compared.


def value_and_gradient(
    outcome: Tensor | Outcome, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The loss, alone or in what an objective returns, and its whole gradient as one vector."""
    loss = outcome.loss if isinstance(outcome, Outcome) else outcome
    gradients = torch.autograd.grad(
        loss, list(parameters), allow_unused=True, materialize_grads=True
    )
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def alike(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], tolerance: float) -> bool:
    """Whether value, gradient norm and gradient direction agree; a gradient of next to nothing is
    never alike, it would prove nothing.
    """
    (value, gradient), (wanted_value, wanted_gradient) = found, wanted
    norm, wanted_norm = gradient.norm(), wanted_gradient.norm()
    if wanted_norm < 1e-3:
        return False
    near_value = abs(value - wanted_value) <= tolerance * max(1.0, abs(wanted_value))
    near_norm = abs(norm - wanted_norm) <= tolerance * wanted_norm
    near_direction = (gradient / norm - wanted_gradient / wanted_norm).norm() <= tolerance
    return bool(near_value and near_norm and near_direction)
