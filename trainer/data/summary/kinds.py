"""Samples of each kind of pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.readers.beir import Judgement
from trainer.data.readers.json_lines import Record, read_json_lines
from trainer.data.splits import in_hash_order
from trainer.storage.visible import visible

_SAMPLES = 2
_SAMPLE_CHARACTERS = 100


@dataclass(frozen=True)
class KindSummary:
    """The pairs of one kind (`nearfar data pairs`)."""

    kind: str
    pairs: int
    samples: tuple[tuple[str, str], ...]
    """Texts of query and document."""

    @property
    def lines(self) -> Iterator[str]:
        """The samples as a person reads them."""
        for query, document in self.samples:
            yield f"  {visible(query, _SAMPLE_CHARACTERS)}"
            yield f"    -> {visible(document, _SAMPLE_CHARACTERS)}"


def summarize_kind(kind: str, pairs: Sequence[tuple[str, str]]) -> KindSummary:
    """Returns the number of pairs, and samples that a hash of their query chooses."""
    order = in_hash_order([query for query, _ in pairs])[:_SAMPLES]
    return KindSummary(kind, len(pairs), tuple(pairs[position] for position in order))


def summarize_kinds(
    folder: Path,
    judgements: Iterable[Judgement],
    queries: Mapping[str, str],
    documents: Mapping[str, str],
) -> list[KindSummary]:
    """Returns the kinds of a BEIR folder, in the order of its queries; none without a `kind`."""
    names = ("queries.jsonl", "queries.jsonl.gz")
    path = next(folder / name for name in names if (folder / name).is_file())
    kind_of = {
        record.values.get("_id"): record.values["kind"]
        for record in read_json_lines(path)
        if isinstance(record, Record) and isinstance(record.values.get("kind"), str)
    }
    pairs: dict[str, list[tuple[str, str]]] = {kind: [] for kind in kind_of.values()}
    for judgement in judgements:
        if judgement.query in kind_of:
            texts = queries[judgement.query], documents[judgement.document]
            pairs[kind_of[judgement.query]].append(texts)
    return [summarize_kind(kind, texts) for kind, texts in pairs.items() if texts]
