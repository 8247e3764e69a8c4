"""Texts with different numbers of tokens in one array; offsets say where each text begins."""

import numpy as np
from jaxtyping import Int64


def offsets_of(lengths: Int64[np.ndarray, " text"]) -> Int64[np.ndarray, " text_plus_one"]:
    """Returns where each text begins and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def tokens_of(
    offsets: Int64[np.ndarray, " text_plus_one"], rows: Int64[np.ndarray, " row"]
) -> Int64[np.ndarray, " token"]:
    """Returns the numbers of all tokens of the texts at `rows`, text after text.

    >>> tokens_of(np.array([0, 2, 3, 5]), np.array([2, 0])).tolist()
    [3, 4, 0, 1]
    """
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum())) + np.repeat(starts - ends + lengths, lengths)


def document_ranges(
    offsets: Int64[np.ndarray, " document_plus_one"], tokens: int
) -> list[tuple[int, int]]:
    """Returns ranges of consecutive documents with at most `tokens` tokens together.

    A longer document has a range of its own. Offsets may also count other things than tokens.
    """
    cuts, first, documents = [], 0, len(offsets) - 1
    while first < documents:
        last = int(np.searchsorted(offsets, offsets[first] + tokens, side="right")) - 1
        last = min(max(last, first + 1), documents)
        cuts.append((first, last))
        first = last
    return cuts
