"""Texts of different numbers of tokens in one array, by where each begins."""

import numpy as np
from jaxtyping import Int64


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


def document_ranges(
    offsets: Int64[np.ndarray, " document_plus_one"], tokens: int
) -> list[tuple[int, int]]:
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
