"""Reads BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv; each may end in .gz."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from trainer.batch import identity
from trainer.data.readers.columns import is_blank, text_problem
from trainer.data.readers.json_lines import Record, read_json_lines, read_lines
from trainer.data.readers.report import BadRow, ReadReport, type_name
from trainer.errors import BadData
from trainer.progress import count_items

MARKER = "source.json"
"""What a folder that `nearfar data` wrote was made of. It is written last, so the folder is
complete.
"""
QUERIES_OF_USERS = frozenset({"resolution", "thread"})
"""Kinds of pairs (`nearfar data pairs`) whose queries are real questions."""


class Judgement(NamedTuple):
    """One line of a qrels file."""

    source: str
    query: str
    document: str
    score: int


def is_beir_folder(folder: Path) -> bool:
    """Returns True for a folder with a corpus in BEIR layout."""
    return folder_member(folder, "corpus.jsonl") is not None


def has_documents_of_pairs_alone(folder: Path) -> bool:
    """Returns True for a folder that `nearfar data split` wrote without a corpus."""
    content = _marker(folder)
    return "pairs" in content and content.get("corpus") is None


def kinds_of_pairs(folder: Path) -> tuple[str, ...]:
    """Returns the kinds of pairs in a folder that `nearfar data pairs` wrote; none for others."""
    kinds = _marker(folder).get("kinds")
    return tuple(kinds) if isinstance(kinds, dict) else ()


def _marker(folder: Path) -> dict[str, Any]:
    """Returns what a folder was made of; empty if that is not known."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def beir_splits(folder: Path) -> list[str]:
    """Returns the splits that have judgements, sorted by name."""
    return sorted(
        {
            path.name.removesuffix(".gz").removesuffix(".tsv")
            for path in (folder / "qrels").glob("*.tsv*")
        }
    )


def source_of_split(sources: Sequence[str], split: str) -> str | None:
    """Returns the training set if it is a single BEIR folder that has this split, else None."""
    folder = Path(sources[0])
    has_split = len(sources) == 1 and is_beir_folder(folder) and split in beir_splits(folder)
    return sources[0] if has_split else None


def read_qrels(folder: Path, split: str, report: ReadReport) -> list[Judgement]:
    """Returns all judgements of a split. Raises BadData if the folder does not have the split."""
    path = folder_member(folder, f"qrels/{split}.tsv") if re.fullmatch(r"[\w-]+", split) else None
    if path is None:
        available_splits = ", ".join(beir_splits(folder)) or "none"
        raise BadData(
            f"{folder} has no split {split!r}, which would be qrels/<split>.tsv (splits there:"
            f" {available_splits}); add it, or name another data set."
        )
    return list(_judgements(path, report))


def _judgements(path: Path, report: ReadReport) -> Iterator[Judgement]:
    for line in read_lines(path):
        if isinstance(line, BadRow):
            report.rows_read += 1
            report.set_aside(line)
            continue
        fields = line.text.split("\t")
        if len(fields) == 1 and len(words := line.text.split()) == 4:
            fields = words  # TREC often has spaces
        if not line.text.strip() or (line.number == 1 and not _is_number(fields[-1])):
            continue
        report.rows_read += 1
        source = f"qrels/{path.name}:{line.number}"
        if len(fields) == 4:  # TREC: query, iteration, document, score
            fields = [fields[0], fields[2], fields[3]]
        if len(fields) != 3 or not _is_number(fields[2]):
            report.set_aside(
                BadRow(
                    source,
                    "not a judgement",
                    "expected query id, document id and a whole score, separated by tabs",
                )
            )
        else:
            yield Judgement(source, fields[0], fields[1], int(fields[2]))


def read_texts(
    folder: Path,
    name: str,
    report: ReadReport,
    ids: Set[str] | None = None,
) -> dict[str, str]:
    """Returns the texts of `corpus.jsonl` or `queries.jsonl` by id, of all records or of these ids
    only.

    A blank text is "". Of several records with the same id, the first one counts. The text of a
    document is its title, a space and its text, as in BEIR.
    """
    path = folder_member(folder, name)
    if path is None:
        raise BadData(
            f"{folder} has no {name}; a BEIR folder contains corpus.jsonl, queries.jsonl and"
            " qrels/<split>.tsv."
        )
    texts: dict[str, str] = {}
    for record in count_items(read_json_lines(path), f"reading {path}", "lines"):
        report.rows_read += 1
        if isinstance(record, BadRow):
            report.set_aside(record)
            continue
        key, text = _id_and_text(record, report)
        if key is None:
            continue
        if ids is not None and key not in ids:
            continue
        if key in texts:
            report.duplicate_ids += 1
            continue
        if problem := text_problem(text):
            report.set_aside(BadRow(record.source, problem))
            continue
        texts[key] = "" if is_blank(text) else report.truncate(text, record.source)
    report.same_text_under_two_ids += len(texts) - len({identity(text) for text in texts.values()})
    return texts


def _id_and_text(record: Record, report: ReadReport) -> tuple[str | None, str]:
    """Returns the id and text of a record. One with an invalid field is set aside and has no id."""
    values = record.values
    if (key := read_id(record, report)) is None:
        return None, ""
    text, title = values.get("text", values.get("title")), values.get("title")
    for name, value in (("text", text), ("title", title)):
        if not (
            isinstance(value, str) or (value is None and (name == "title" or "text" in values))
        ):
            reason = f"the field {name!r} is {type_name(value)}, expected a text"
            detail = (
                "queries that are images belong in queries.parquet" if "image" in values else ""
            )
            report.set_aside(BadRow(record.source, reason, detail))
            return None, ""
    title = title if "text" in values else None
    return key, f"{title} {text or ''}" if title and title.strip() else text or ""


def text_id(values: Mapping[str, Any]) -> Any:
    """Returns the value of `_id` or `id`, a number as a text; None if there is none.

    >>> text_id({"_id": 7, "text": "a"})
    '7'
    """
    key = values.get("_id", values.get("id"))
    return str(key) if isinstance(key, int) and not isinstance(key, bool) else key


def read_id(record: Record, report: ReadReport) -> str | None:
    """Returns the id of a record. One without an id is set aside."""
    key = text_id(record.values)
    if isinstance(key, str) and key:
        return key
    reason = f"the field '_id' is {type_name(key)}, expected a text"
    report.set_aside(BadRow(record.source, reason))
    return None


def judgements_with_texts(
    judgements: list[Judgement],
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    bad_lines: Mapping[str, int],
    report: ReadReport,
) -> list[Judgement]:
    """Returns the judgements whose query and document have a text.

    Raises BadData when more ids have no text than lines of the file could not be read
    (`bad_lines`, per file). Otherwise those lines may contain the ids, and the judgements are set
    aside.
    """
    missing = {
        "queries.jsonl": {judgement.query for judgement in judgements} - queries.keys(),
        "corpus.jsonl": {judgement.document for judgement in judgements} - documents.keys(),
    }
    for name, ids in missing.items():
        if len(ids) > bad_lines.get(name, 0):
            first = next(
                judgement
                for judgement in judgements
                if judgement.query in ids or judgement.document in ids
            )
            examples = ", ".join(map(repr, sorted(ids)[:5])) + (", ..." if len(ids) > 5 else "")
            first_bad = report.bad_rows[:1]
            bad = "".join(f" One of {report.bad_count} bad rows: {row}" for row in first_bad)
            raise BadData(
                f"{first.source}: the judgements name {len(ids)} ids that are not in {name}:"
                f" {examples}. Add them, or remove the lines.{bad}"
            )
    complete = []
    for judgement in judgements:
        if (
            judgement.query in missing["queries.jsonl"]
            or judgement.document in missing["corpus.jsonl"]
        ):
            report.set_aside(BadRow(judgement.source, "its query or document could not be read"))
        else:
            complete.append(judgement)
    return complete


def grades_by_query(
    judgements: Sequence[Judgement], queries: Mapping[str, str], documents: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    """Returns the grades of these documents per query that is not blank and has a relevant one."""
    grades: dict[str, dict[str, int]] = {}
    for item in judgements:
        if item.document in documents and not is_blank(queries[item.query]):
            grades.setdefault(item.query, {})[item.document] = item.score
    return {query: values for query, values in grades.items() if max(values.values()) > 0}


def folder_member(folder: Path, name: str) -> Path | None:
    """Returns a file of the folder, or its .gz. Refuses a link that leads out of the folder."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            if not candidate.resolve().is_relative_to(folder.resolve()):
                raise BadData(
                    f"{candidate} is a link that leads out of {folder}; put the file itself there."
                )
            return candidate
    return None


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").isdecimal()
