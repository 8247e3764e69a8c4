"""Texts with different numbers of tokens in one array; offsets say where each text begins."""

from collections.abc import Iterable
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from trainer.collectives import sum_over_ranks
from trainer.vectors.vectors import Vectors

RankTexts = tuple[Int[Tensor, " _"], Int[Tensor, " _"], Float32[Tensor, "_ width"]]
"""Some texts that this rank has encoded: their numbers, their counts of rows, and all their rows.
"""


class RaggedVectors(Vectors):
    """Rows of texts without padding: text i has `rows[offsets[i] : offsets[i + 1]]`."""

    rows: Float[np.ndarray, "row dimension"]
    offsets: Int64[np.ndarray, " text_plus_one"]

    @property
    def lengths(self) -> Int64[np.ndarray, " text"]:
        """The number of rows per text."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> Float[np.ndarray, "row dimension"]:
        return self.rows[self.offsets[text] : self.offsets[text + 1]]

    @classmethod
    def joined_rows(
        cls, parts: Iterable[Self], dimensions: int
    ) -> tuple[Float[np.ndarray, "row dimension"], Int64[np.ndarray, " text"]]:
        """Returns all rows of the parts, and their number per text."""
        rows, lengths = [np.empty((0, dimensions), np.float32)], [np.empty(0, np.int64)]
        for part in parts:
            rows.append(part.rows)
            lengths.append(part.lengths)
        return np.concatenate(rows), np.concatenate(lengths)


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


def rows_of_all_ranks(
    parts: Iterable[RankTexts], texts: int, width: int, device: torch.device
) -> tuple[Float32[np.ndarray, "row width"], Int64[np.ndarray, " text"]]:
    """Returns the rows of `texts` texts, text after text, and their number per text.

    Each text is in a part of one rank. Every rank gets all rows.
    """
    counts = torch.zeros(texts, dtype=torch.long, device=device)
    rank_parts = [(places.to(device), *rest) for places, *rest in parts]
    for places, part_counts, _ in rank_parts:
        counts[places] = part_counts
    counts = sum_over_ranks(counts)
    starts = counts.cumsum(0) - counts
    host_counts = counts.cpu()
    all_rows = torch.zeros(int(host_counts.sum()), width, device=device)
    for places, lengths, rows in rank_parts:
        # Where each text begins among all rows, minus where it begins in `rows`.
        shifts = starts[places] - (lengths.cumsum(0) - lengths)
        shifts = shifts.repeat_interleave(lengths, output_size=len(rows))
        all_rows[shifts + torch.arange(len(rows), device=device)] = rows
    return sum_over_ranks(all_rows).cpu().numpy(), host_counts.numpy()
