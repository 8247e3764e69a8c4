"""The nouns: `Texts` (what is encoded), `Batch` (one optimizer step), and what identifies a text.

Texts stay ragged from the tokenizer to the encoder: padding appears only inside one micro-batch, on
the device.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def identity(text: str) -> int:
    """A stable 63-bit name of a text, the same on every machine and in every run: equal only for
    equal texts.

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
    """A stable 63-bit name of a (query, document) pair, from the names of its texts.

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
    """How many leading tokens of every text, after the first special one, belong to the prompt."""
    role: Literal["query", "document"] | None = None
    """What they were tokenised as, where the encoder treats the two differently."""
    second: Int[Tensor, " text"] | None = None
    """Where each text is a (query, document) pair: at which of its tokens the second part
    begins.
    """

    @classmethod
    def of(
        cls,
        token_lists: Sequence[Sequence[int]],
        identities: Sequence[int],
        pad_token_id: int = 0,
        prompt_tokens: int = 0,
    ) -> Self:
        """Texts from lists of token ids, one list a text."""
        lengths = torch.tensor([0, *map(len, token_lists)])
        tokens = torch.tensor(
            [token for tokens in token_lists for token in tokens], dtype=torch.long
        )
        return cls(
            tokens,
            lengths.cumsum(0),
            torch.tensor(identities, dtype=torch.long),
            pad_token_id,
            prompt_tokens,
        )

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def lengths(self) -> Int[Tensor, " text"]:
        """Tokens of each text."""
        return self.offsets.diff()

    def select(self, rows: Int[Tensor, " row"]) -> Self:
        """The texts at `rows`, in that order.

        >>> Texts.of([[5, 6], [7], [8, 9]], [1, 2, 3]).select(torch.tensor([2, 1])).tokens.tolist()
        [8, 9, 7]
        """
        lengths = self.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(offsets[-1]), device=lengths.device) - offsets[
            :-1
        ].repeat_interleave(lengths)
        tokens = self.tokens[self.offsets[rows].repeat_interleave(lengths) + within]
        second = None if self.second is None else self.second[rows]
        return replace(
            self, tokens=tokens, offsets=offsets, identities=self.identities[rows], second=second
        )

    def padded(self) -> tuple[Int[Tensor, "text length"], Bool[Tensor, "text length"]]:
        """Token ids padded on the right to the longest text, and True where a token is real.

        >>> ids, real = Texts.of([[5, 6], [7]], [1, 2]).padded()
        >>> ids.tolist(), real.tolist()
        ([[5, 6], [7, 0]], [[True, True], [True, False]])
        """
        lengths = self.lengths
        real = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        ids = self.tokens.new_full(real.shape, self.pad_token_id)
        ids[real] = self.tokens
        return ids, real

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on `device` (the name Lightning looks for)."""
        return _moved(self, device, non_blocking)


@dataclass(frozen=True, slots=True)
class Batch:
    """One optimizer step: every query of the global batch with its candidates.

    `documents` are query-major, `documents_per_query` a query, the positive first: query i owns the
    documents `i * documents_per_query` up to `(i + 1) * documents_per_query`. For a cross-encoder
    they are pairs of the query and a candidate, and what identifies them, and the known positives,
    is `pair_identity`.
    """

    queries: Texts
    documents: Texts
    known_positives: Int[Tensor, "query known"]
    """Identities of all positives each query is known to have, filled up with -1."""
    labels: Float[Tensor, "query candidate"] | None = None
    """The data's own score of each own candidate (CoSENT), or a teacher's."""
    sample_ids: tuple[str, ...] = ()
    """Where each row came from, `file:line`; written out when a step goes wrong."""

    def __post_init__(self) -> None:
        if len(self.queries) == 0 or len(self.documents) % len(self.queries):
            raise ValueError(
                f"{len(self.documents)} documents cannot be shared out evenly among"
                f" {len(self.queries)} queries; a batch holds the same number of candidates for"
                " every query"
            )

    @property
    def documents_per_query(self) -> int:
        """Candidates a query owns, the positive included."""
        return len(self.documents) // len(self.queries)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on `device` (the name Lightning looks for)."""
        return _moved(self, device, non_blocking)


def _moved(record, device, non_blocking):  # type: ignore[no-untyped-def]
    """A copy of a dataclass with everything that can move to `device` moved."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    moved = {
        name: value.to(device, non_blocking=non_blocking)
        for name, value in values.items()
        if isinstance(value, Tensor | Texts)
    }
    return replace(record, **moved)
