"""Texts to one vector for each token that counts: ragged, and block by block for a corpus that does
not fit into memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from trainer.batch import Texts
from trainer.collectives import sum_over_ranks
from trainer.errors import BadData, BadModel
from trainer.models.contract import Role
from trainer.retrieval.corpus import Document
from trainer.retrieval.vectors.encode import (
    check_finite,
    default_micro_batch_tokens,
    inference,
    shared_out,
    tokenized,
)
from trainer.strategies.devices import Precision

if TYPE_CHECKING:
    from trainer.models.encoder import Encoder

_TEXTS_AT_ONCE = 2048
_DOCUMENTS_AT_ONCE = 4096
_SHOWN = 80
"""Characters of a query in an error."""
_TOKENS_AT_ONCE = 4096 * 180
"""Of documents as long as they may be."""


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """Token vectors without padding: text i has `vectors[offsets[i] : offsets[i + 1]]`."""

    vectors: Float[np.ndarray, "token dimension"]
    offsets: Int64[np.ndarray, " text_plus_one"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " text"]:
        """Tokens of each text."""
        return np.diff(self.offsets)

    def of(self, text: int) -> Float[np.ndarray, "token dimension"]:
        """The vectors of one text."""
        return self.vectors[self.offsets[text] : self.offsets[text + 1]]

    def select(self, rows: Int64[np.ndarray, " row"]) -> Self:
        """The texts at `rows`, in that order.

        >>> vectors = TokenVectors(np.float32([[1], [2], [3]]), np.array([0, 2, 3]))
        >>> vectors.select(np.array([1, 0])).vectors.tolist()
        [[3.0], [1.0], [2.0]]
        """
        offsets = offsets_of(self.lengths[rows])
        return type(self)(self.vectors[tokens_of(self.offsets, rows)], offsets)

    def padded(self) -> Float32[np.ndarray, "text length dimension"]:
        """One row of vectors a text, filled up with zeros: what `trainer.scores.maxsim` takes.

        >>> TokenVectors(np.float32([[1], [2], [3]]), np.array([0, 2, 3])).padded()[
        ...     :, :, 0
        ... ].tolist()
        [[1.0, 2.0], [3.0, 0.0]]
        """
        lengths = self.lengths
        there = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        rows = np.zeros((*there.shape, self.vectors.shape[1]), dtype=np.float32)
        rows[there] = self.vectors
        return rows


def offsets_of(lengths: Int64[np.ndarray, " text"]) -> Int64[np.ndarray, " text_plus_one"]:
    """Where each text begins and the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def tokens_of(
    offsets: Int64[np.ndarray, " text_plus_one"], rows: Int64[np.ndarray, " row"]
) -> Int64[np.ndarray, " token"]:
    """Numbers of all tokens of the texts at `rows`, text after text.

    >>> tokens_of(np.array([0, 2, 3, 5]), np.array([2, 0])).tolist()
    [3, 4, 0, 1]
    """
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum())) + np.repeat(starts - ends + lengths, lengths)


def blocks(offsets: Int64[np.ndarray, " document_plus_one"], tokens: int) -> list[tuple[int, int]]:
    """Ranges of documents of at most `tokens` tokens, or whatever the offsets count, together; a
    longer document has one to itself.
    """
    cuts, first, documents = [], 0, len(offsets) - 1
    while first < documents:
        last = int(np.searchsorted(offsets, offsets[first] + tokens, side="right")) - 1
        last = min(max(last, first + 1), documents)
        cuts.append((first, last))
        first = last
    return cuts


class Block(NamedTuple):
    """Some documents of a corpus, encoded."""

    documents: list[Document]
    tokens: TokenVectors


def encode_tokens(
    encoder: "Encoder",
    texts: Sequence[str],
    role: Role,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> TokenVectors:
    """The float32 vectors of every token that counts, of every text in the order given.

    As `trainer.retrieval.vectors.encode.encode`: a text that occurs twice is encoded once, texts
    are tokenised ahead of the model and go through it in order of length within
    `micro_batch_tokens` padded tokens, ranks share them out. Raises BadModel when a number is not
    finite.
    """
    places: dict[str, int] = {}
    inverse = np.array([places.setdefault(text, len(places)) for text in texts], dtype=np.int64)
    device = torch.device(encoder.device)
    budget = micro_batch_tokens or default_micro_batch_tokens(device)
    parts, lengths = [np.empty((0, encoder.dimensions), np.float32)], [np.empty(0, np.int64)]
    with inference(encoder, device, precision):
        for some in tokenized(encoder, list(places), role, _TEXTS_AT_ONCE):
            vectors, counts = _encode_slice(encoder, some, budget, device)
            parts.append(vectors.cpu().numpy())
            lengths.append(counts.cpu().numpy())
    found = TokenVectors(np.concatenate(parts), offsets_of(np.concatenate(lengths)))
    check_finite(found.vectors, precision)
    return found if len(places) == len(inverse) else found.select(inverse)


def encode_queries(
    encoder: "Encoder",
    queries: Sequence[str],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> TokenVectors:
    """As `encode_tokens`, of queries. Raises BadData for one no token of which counts: it could
    find nothing.
    """
    tokens = encode_tokens(encoder, queries, "query", micro_batch_tokens, precision)
    if (empty := np.flatnonzero(tokens.lengths == 0)).size:
        text = queries[empty[0]]
        raise BadData(
            f"the query {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'!r} has no token that"
            " the model scores (punctuation alone, perhaps); say what to look for in words, or"
            " leave it out"
        )
    return tokens


def token_blocks(
    encoder: "Encoder",
    documents: Iterable[Document],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Iterator[Block]:
    """The documents with their vectors, block by block, so that a corpus need not fit into memory.

    Raises BadData for a document no token of which counts: nothing could ever find it.
    """
    at_once = max(
        1, min(_DOCUMENTS_AT_ONCE, _TOKENS_AT_ONCE // encoder.contract.document_max_length_tokens)
    )
    block: list[Document] = []
    for document in documents:
        block.append(document)
        if len(block) == at_once:
            yield _encode_block(encoder, block, micro_batch_tokens, precision)
            block = []
    if block:
        yield _encode_block(encoder, block, micro_batch_tokens, precision)


def _encode_block(
    encoder: "Encoder",
    documents: list[Document],
    micro_batch_tokens: int | None,
    precision: Precision,
) -> Block:
    tokens = encode_tokens(
        encoder,
        [document.whole for document in documents],
        "document",
        micro_batch_tokens,
        precision,
    )
    if (empty := np.flatnonzero(tokens.lengths == 0)).size:
        raise BadData(
            f"document {documents[empty[0]].id!r} has no token that the model scores (punctuation"
            " alone, perhaps), so no search could find it; take it out of the corpus, or give it a"
            " text"
        )
    return Block(documents, tokens)


def _encode_slice(
    encoder: "Encoder", texts: Texts, budget: int, device: torch.device
) -> tuple[Float[Tensor, "token dimension"], Int[Tensor, " text"]]:
    """Vectors of a slice, text after text, and how many each text has."""
    own = []
    counts = torch.zeros(len(texts), dtype=torch.long, device=device)
    for rows, encoded in shared_out(encoder, texts, budget, device):
        if encoded.ndim != 3:
            raise BadModel(
                "the model gives one vector a text; token vectors come from a late-interaction"
                " model, trained with a recipe of kind colbert"
            )
        there = encoded.any(-1)
        counts[rows.to(device)] = there.sum(1)
        own.append((rows.to(device), encoded[there].float()))
    counts = sum_over_ranks(counts)
    starts = counts.cumsum(0) - counts
    vectors = torch.zeros(int(counts.sum()), encoder.dimensions, device=device)
    for rows, of_rows in own:
        lengths = counts[rows]
        within = torch.arange(len(of_rows), device=device) - (
            lengths.cumsum(0) - lengths
        ).repeat_interleave(lengths)
        vectors[starts[rows].repeat_interleave(lengths) + within] = of_rows
    return sum_over_ranks(vectors), counts
