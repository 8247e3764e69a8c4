"""The lengths of the training texts, in tokens."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from trainer.data.rows import Row, Rows
from trainer.errors import BadText
from trainer.models.encoder import Encoder
from trainer.report.next_steps import MANY_CUT_RATIO

SAMPLE_ROWS = 1000
"""Number of rows whose texts are measured."""
BINS = 16
"""Number of bins of a histogram of lengths."""


@dataclass(frozen=True)
class Lengths:
    """The lengths of a sample of texts of one role."""

    texts: int
    cut_texts: int
    """Number of texts that are longer than the model's limit."""
    limit_tokens: int
    mean_tokens: float
    bin_tokens: int
    bins: tuple[int, ...]
    """Bin i counts the texts of i * bin_tokens + 1 to (i + 1) * bin_tokens tokens, without those
    that are cut.
    """

    def summary(self, role: str) -> str:
        """Says how many texts of the role are cut, and how long they are."""
        return (
            f"{self.cut_texts:,} of {self.texts:,} sampled {role} texts are longer than"
            f" {self.limit_tokens} tokens and are cut; {self.mean_tokens:.0f} tokens on average"
        )

    def warning(self, role: str) -> str | None:
        """The summary and what to do; None where few texts are cut."""
        if self.cut_texts <= MANY_CUT_RATIO * self.texts:
            return None
        advice = f"raise model.{role}_max_length_tokens, or split the texts into passages"
        return f"{self.summary(role)}; {advice}"


def measure_lengths(encoder: Encoder, rows: Rows, negatives: int) -> tuple[Lengths, Lengths]:
    """Returns the lengths of queries and of documents, in a sample spread evenly over the rows.

    `negatives` is the number of negatives per query. As in training, rows at which the tokenizer
    fails are left out.
    """
    count = min(SAMPLE_ROWS, len(rows))
    sample = [rows[number * len(rows) // count] for number in range(count)]
    while True:
        try:
            return _measure(encoder, sample, negatives)
        except BadText as error:
            texts_of = [(row.query, *_documents(row, negatives)) for row in sample]
            good_rows = zip(sample, texts_of, strict=True)
            sample = [row for row, texts in good_rows if error.text not in texts]
            if len(sample) in (0, len(texts_of)):
                raise


def _measure(encoder: Encoder, sample: list[Row], negatives: int) -> tuple[Lengths, Lengths]:
    contract, queries = encoder.contract, [row.query for row in sample]
    documents = [text for row in sample for text in _documents(row, negatives)]
    queries_of_documents = [row.query for row in sample for _ in _documents(row, negatives)]
    return (
        _lengths(encoder.uncut_lengths(queries, "query"), contract.query_max_length_tokens),
        _lengths(
            encoder.uncut_document_lengths(queries_of_documents, documents),
            contract.document_max_length_tokens,
        ),
    )


def _documents(row: Row, negatives: int) -> list[str]:
    """Returns the documents of a row. Its positive replaces negatives drawn from other rows."""
    return [row.positive, *(row.negatives or (row.positive,) * negatives)[:negatives]]


def _lengths(lengths: Int[Tensor, " text"], limit: int) -> Lengths:
    """Returns the histogram and summary of lengths.

    >>> _lengths(torch.tensor([2, 3, 40]), 32)
    Lengths(texts=3, cut_texts=1, limit_tokens=32, mean_tokens=12.33...,
    bin_tokens=2, bins=(1, 1))
    """
    mean = float(lengths.clamp(max=limit).double().mean())
    longest, whole_texts = int(lengths.max()), lengths[lengths <= limit]
    bin_tokens = -(-min(longest, limit) // BINS)
    bins = torch.bincount((whole_texts - 1).clamp(min=0) // bin_tokens).tolist()
    cut_texts = len(lengths) - len(whole_texts)
    return Lengths(len(lengths), cut_texts, limit, mean, bin_tokens, tuple(bins))
