"""The vectors that a run needs from a teacher: of which texts, and of which weights."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from trainer.batch import identity
from trainer.data.rows import Row
from trainer.models.contracts.text import Role
from trainer.models.encoder import VectorEncoder
from trainer.vectors.vectors import Vectors

ROLES: tuple[Role, Role] = ("query", "document")
Identities = dict[Role, Int64[np.ndarray, " text"]]
"""Identities of texts per role, sorted."""
TextSource = Callable[[], Iterable[str]]
"""Returns documents that are in no row."""


def names_of(
    rows: Iterable[Row], negatives_per_query: int, further_documents: TextSource = tuple
) -> Identities:
    """Returns the sorted identities of the texts of `rows` and of further documents, per role."""
    return {
        role: np.unique(
            np.array(
                [
                    *map(
                        identity, distinct_texts(rows, role, negatives_per_query, further_documents)
                    )
                ],
                np.int64,
            )
        )
        for role in ROLES
    }


@dataclass(frozen=True)
class NeededVectors:
    """The vectors that a run needs from a teacher."""

    content: dict[str, Any]
    """The content of `teacher.json`."""
    kind: type[Vectors]
    names: Identities


def needed_vectors(teacher: VectorEncoder, names: Identities) -> NeededVectors:
    """Describes the vectors of this teacher for the texts with these identities."""
    content = {
        "version": 2,
        "fingerprint": teacher_fingerprint(teacher),
        "contract": teacher.contract.model_dump(mode="json"),
        "tokens": teacher.vectors.UNIT == "token",
    }
    return NeededVectors(content, teacher.vectors, names)


def teacher_fingerprint(teacher: VectorEncoder) -> str:
    """Returns the SHA-256 of all weights and the contract, on which the vectors depend."""
    digest = hashlib.sha256(teacher.contract.model_dump_json().encode())
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(
            name.encode()
            + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def distinct_texts(
    rows: Iterable[Row], role: Role, negatives: int, further_documents: TextSource
) -> Iterator[str]:
    """Yields each distinct text of a role once: those of the rows in order, then further ones."""
    row_texts = (
        text
        for row in rows
        for text in (
            (row.query,) if role == "query" else (row.positive, *row.negatives[:negatives])
        )
    )
    seen_identities: set[int] = set()
    for text in chain(row_texts, () if role == "query" else further_documents()):
        if (name := identity(text)) not in seen_identities:
            seen_identities.add(name)
            yield text
