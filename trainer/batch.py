"""The data types of training: `Texts` (what is encoded), `Batch` (the texts of one optimizer step),
`Division` (texts in micro-batches) and the identities of texts.

Texts stay ragged from the tokenizer to the encoder, and most encoders need no padding at all
(`trainer.models.parts.packed`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def identity(text: str) -> int:
    """Returns a 63-bit hash of a text, the same on every machine and in every run.

    Two texts have the same identity only if they are equal.

    >>> identity("delete a disk") == identity("delete a disk")
    True
    >>> identity("delete a disk") == identity("Delete a disk")
    False
    """
    return (
        int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
        )
        >> 1
    )


def pair_identity(query: int, document: int) -> int:
    """Returns a 63-bit hash of a (query, document) pair, from the identities of both texts.

    >>> pair_identity(1, 2) == pair_identity(2, 1)
    False
    """
    return (
        int.from_bytes(
            hashlib.blake2b(f"{query} {document}".encode(), digest_size=8).digest(), "big"
        )
        >> 1
    )


@dataclass(frozen=True, slots=True)
class Texts:
    """Tokenised texts without padding: text i is `tokens[offsets[i] : offsets[i + 1]]`."""

    tokens: Int[Tensor, " token"]
    offsets: Int[Tensor, " text_plus_one"]
    identities: Int[Tensor, " text"]
    pad_token_id: int = 0
    prompt_tokens: int = 0
    """Number of prompt tokens at the beginning of every text, after the first special token."""
    role: Literal["query", "document"] | None = None
    """The role that the texts were tokenised for, if the encoder treats the two differently."""
    second: Int[Tensor, " text"] | None = None
    """Only if each text is a (query, document) pair: the token at which the document begins."""
    numbers: Int[Tensor, " number"] | None = None
    """Only of a micro-batch that is ready: all that a device needs, in one tensor
    (`trainer.models.parts.packed.with_numbers`).
    """

    @classmethod
    def zeros(cls, count: int, length: int) -> Self:
        """Builds `count` texts of `length` tokens with the id 0."""
        return cls.of([[0] * length] * count, range(count))

    @classmethod
    def of(
        cls,
        token_lists: Sequence[Sequence[int]],
        identities: Sequence[int],
        pad_token_id: int = 0,
        prompt_tokens: int = 0,
    ) -> Self:
        """Builds texts from lists of token ids, one list per text."""
        lengths = torch.tensor([0, *map(len, token_lists)])
        offsets = lengths.cumsum(0)
        # NumPy reads an iterator five times as fast as PyTorch reads a list.
        tokens = np.fromiter(chain.from_iterable(token_lists), np.int64, int(offsets[-1]))
        return cls(
            torch.from_numpy(tokens),
            offsets,
            torch.from_numpy(np.fromiter(identities, np.int64, len(identities))),
            pad_token_id,
            prompt_tokens,
        )

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def lengths(self) -> Int[Tensor, " text"]:
        """Number of tokens of each text."""
        return self.offsets.diff()

    def select(self, rows: Int[Tensor, " row"]) -> Self:
        """Returns the texts at `rows`, in that order.

        >>> Texts.of([[5, 6], [7], [8, 9]], [1, 2, 3]).select(torch.tensor([2, 1])).tokens.tolist()
        [8, 9, 7]
        """
        lengths = self.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        places = torch.arange(int(offsets[-1]), device=lengths.device) - offsets[
            :-1
        ].repeat_interleave(lengths)  # of each token within its text
        tokens = self.tokens[self.offsets[rows].repeat_interleave(lengths) + places]
        second = None if self.second is None else self.second[rows]
        return replace(
            self,
            tokens=tokens,
            offsets=offsets,
            identities=self.identities[rows],
            second=second,
            numbers=None,
        )

    def pad(self) -> tuple[Int[Tensor, "text length"], Bool[Tensor, "text length"]]:
        """Returns the token ids, padded on the right to the longest text, and the padding mask.

        The mask is True at the tokens of a text and False at padding.

        >>> ids, mask = Texts.of([[5, 6], [7]], [1, 2]).pad()
        >>> ids.tolist(), mask.tolist()
        ([[5, 6], [7, 0]], [[True, True], [True, False]])
        """
        lengths = self.lengths
        mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        ids = self.tokens.new_full(mask.shape, self.pad_token_id)
        ids[mask] = self.tokens
        return ids, mask

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Returns a copy on `device`. Lightning calls this method by its name."""
        return _move_to(record=self, device=device, non_blocking=non_blocking)


@dataclass(frozen=True, slots=True)
class Division:
    """Texts in micro-batches: each distinct text once, sorted from long to short."""

    texts: Texts
    micro_batches: tuple[Texts, ...]
    rows: Int[Tensor, " text"]
    """The row of each of `texts` in all micro-batches, one after the other."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of one optimizer step: every query of the global batch with its candidates.

    `documents` are query-major with the positive first. Query i owns the documents
    `i * documents_per_query` up to `(i + 1) * documents_per_query`. For a cross-encoder each
    document is a pair of the query and a candidate. Its identity is then `pair_identity`, and so
    are the identities of `known_positives`.
    """

    queries: Texts
    documents: Texts
    known_positives: Int[Tensor, "query known"]
    """Identities of all known positives of each query, filled up with -1."""
    labels: Float[Tensor, "query candidate"] | None = None
    """Scores of each query's own candidates, from the data (CoSENT) or from a teacher."""
    sample_ids: tuple[str, ...] = ()
    """The origin of each row as `file:line`, for messages about a step that failed."""
    divisions: tuple[Division, ...] = ()
    """The micro-batches of queries and documents, if they were made ahead of the step."""
    step: int = 0
    """The number of the optimizer step, from 0."""

    def __post_init__(self) -> None:
        if len(self.queries) == 0 or len(self.documents) % len(self.queries):
            raise ValueError(
                f"{len(self.documents)} documents cannot be divided evenly among"
                f" {len(self.queries)} queries; a batch holds the same number of candidates for"
                " every query"
            )

    @property
    def documents_per_query(self) -> int:
        """Number of candidates per query, including the positive."""
        return len(self.documents) // len(self.queries)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Returns a copy on `device`. Lightning calls this method by its name."""
        return _move_to(record=self, device=device, non_blocking=non_blocking)


def to_device(values: Shaped[Tensor, "*axis"], device: torch.device) -> Shaped[Tensor, "*axis"]:
    """Returns a copy of values in main memory on `device`. The CPU does not wait for a GPU."""
    return pin_for(values, device).to(device, non_blocking=device.type == "cuda")


def pin_for(values: Shaped[Tensor, "*axis"], device: torch.device) -> Shaped[Tensor, "*axis"]:
    """Returns the values in pinned memory if `device` is a GPU, which reads nothing else by itself:
    without it, the CPU waits for all work of the GPU before it copies.
    """
    return values.pin_memory() if device.type == "cuda" else values


def _move_to(record, device, non_blocking):  # type: ignore[no-untyped-def]
    """Returns a copy of a dataclass whose tensors and texts are on `device`."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    values_on_device = {
        name: value.to(device, non_blocking=non_blocking)
        for name, value in values.items()
        if isinstance(value, Tensor | Texts)
    }
    return replace(record, **values_on_device)
