"""The section on the data of a run, from its `data.json`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.summary.document_shortage import document_shortage
from trainer.errors import BadFolder
from trainer.report.charts.length_chart import length_chart
from trainer.report.charts.svg import Figure

COUNTS = {
    "pairs": "pairs",
    "queries": "queries",
    "documents": "documents",
    "duplicate_pairs": "repeated pairs",
}
"""Counts of a split, with their names in the table."""


@dataclass(frozen=True, slots=True)
class RoleLengths:
    """The lengths of the texts of one role, in a sample of the training data."""

    role: str
    texts: int
    cut_texts: int
    limit_tokens: int
    mean_tokens: float
    bin_tokens: int
    bins: tuple[int, ...]

    @property
    def cut_share(self) -> float:
        """The share of texts that are longer than the limit."""
        return self.cut_texts / max(1, self.texts)


@dataclass(frozen=True, slots=True)
class SharedTexts:
    """A number of texts of a split that are also in the training data."""

    split: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What `trainer.build.data_facts.facts` has written."""

    splits: list[tuple[str, str, list[int | None]]]
    """One row per split: name, an empty text, and the counts of COUNTS."""
    leaks: list[SharedTexts]
    lengths: list[RoleLengths]
    remarks: list[str]

    @property
    def training(self) -> dict[str, int]:
        """The counts of the training split, by their keys."""
        counts = zip(COUNTS, self.splits[0][2], strict=True)
        return {name: count for name, count in counts if count is not None}

    @property
    def document_shortage(self) -> str:
        """What is wrong if the training pairs have few different documents, else ""."""
        counts = self.training
        return document_shortage(counts["pairs"], counts["documents"])

    @property
    def figures(self) -> Iterator[Figure]:
        """A histogram of lengths per role."""
        for lengths in self.lengths:
            title = f"Length of {'queries' if lengths.role == 'query' else 'documents'}"
            chart = length_chart(title, lengths.bin_tokens, lengths.bins, lengths.cut_texts)
            note = f"tokens; {100 * lengths.cut_share:.2g} % cut at {lengths.limit_tokens:,}"
            yield Figure(title, note, chart)


def read_data_facts(content: Mapping[str, Any], path: Path) -> DataFacts | None:
    """Returns the content of `data.json`, or None if there is none.

    Raises BadFolder if it is damaged. `path` is that of the file.
    """
    if not content:
        return None
    try:
        parts = {name: content[name] for name in ("training", "validation", "test")}
        parts |= content.get("general", {})
        return DataFacts(
            splits=[
                (name, "", [_count(counts.get(key)) for key in COUNTS])
                for name, counts in parts.items()
                if counts is not None
            ],
            leaks=[
                SharedTexts(str(leak["split"]), str(leak["kind"]), int(leak["count"]))
                for leak in content["leaks"]
            ],
            lengths=[_lengths(role, values) for role, values in content["lengths"].items()],
            remarks=[str(remark) for remark in content["remarks"]],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadFolder(
            f"{path} is damaged ({type(error).__name__}: {error}); remove it for a report without"
            " it"
        ) from error


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _lengths(role: str, values: Mapping[str, Any]) -> RoleLengths:
    return RoleLengths(
        role,
        texts=int(values["texts"]),
        cut_texts=int(values["cut_texts"]),
        limit_tokens=int(values["limit_tokens"]),
        mean_tokens=float(values["mean_tokens"]),
        bin_tokens=max(1, int(values["bin_tokens"])),
        bins=tuple(int(count) for count in values["bins"]),
    )
