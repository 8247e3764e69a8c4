"""`data.json` of a run: what the data of a run contain, for the report and the model card."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trainer.batch import identity
from trainer.build.data import DataSets, leaked_queries
from trainer.build.data_facts.lengths import Lengths, measure_lengths
from trainer.build.job import Job
from trainer.data.near_duplicates import find_near_identical, normal_form
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Rows, count_duplicate_pairs
from trainer.runtime.attempts import write_json
from trainer.runtime.console import say

MOST_COMPARED_PAIRS = 50_000
"""With more training pairs, near-identical queries are not searched: `nearfar data check` does."""


def write_data_facts(job: Job, path: Path, may_have_changed: bool) -> None:
    """Writes `data.json`, and warns if many texts are cut. A continued run has the file already, so
    it is kept unless data or settings may have changed.
    """
    if not may_have_changed and path.exists():
        return
    by_role = measure_lengths(job.encoder, job.data.train, job.recipe.negatives_per_query)
    lengths = dict(zip(("query", "document"), by_role, strict=True))
    write_json(path, data_facts(job, lengths))
    for role, summary in lengths.items():
        if warning := summary.warning(role):
            say(f"warning: {warning}")


def data_facts(job: Job, lengths: Mapping[str, Lengths]) -> dict[str, Any]:
    """Returns counts, lengths by role, duplicates and leaks, as values for JSON.

    {"training": {"pairs": n, "queries": n, "documents": n, "duplicate_pairs": n},
     "validation": {"queries": n, "documents": n},       "documents": those that are searched
     "test": the same, or null without test queries,
     "general": {name: the same},
     "leaks": [{"split": "test", "kind": "the same query", "count": n}],
     "lengths": {"query": `Lengths`, "document": `Lengths`},
     "remarks": [text]}
    """
    data = job.data
    return {
        "training": _training(data),
        "validation": _counts(data.validation),
        "test": None if data.test is None else _counts(data.test),
        "general": {collection.name: _counts(collection) for collection in data.general},
        "leaks": [
            {"split": name, "kind": kind, "count": count}
            for name, judged_set in data.held_out_sets.items()
            for kind, count in _leaks(data, judged_set)
            if count
        ],
        "lengths": {role: asdict(summary) for role, summary in lengths.items()},
        "remarks": list(data.remarks),
    }


def _training(data: DataSets) -> dict[str, int]:
    return {
        "pairs": len(data.train),
        "queries": len(data.known_positives),
        "documents": data.training_documents,
        "duplicate_pairs": count_duplicate_pairs(data.train.table),
    }


def _counts(held_out: RetrievalSet) -> dict[str, int]:
    return {"queries": len(held_out.queries), "documents": len(held_out.documents)}


def _leaks(data: DataSets, held_out: RetrievalSet) -> Iterator[tuple[str, int]]:
    """Yields how many texts of a held-out set are also in the training data, by kind."""
    yield "the same query", leaked_queries(data.known_positives, held_out)
    if len(data.train) <= MOST_COMPARED_PAIRS:
        yield "a near-identical query", _near_identical_queries(data.train, held_out)
    relevant = {
        document
        for grades in held_out.qrels.values()
        for document, grade in grades.items()
        if grade > 0
    }
    identities = [
        identity(held_out.documents[place])
        for place, document in enumerate(held_out.document_ids)
        if document in relevant
    ]
    is_shared = np.isin(np.unique(identities), data.train.identities("positive"))
    yield "a relevant document that is a positive", int(is_shared.sum())


def _near_identical_queries(rows: Rows, held_out: RetrievalSet) -> int:
    """Returns how many held-out queries are near-identical, but not equal, to training queries."""
    queries = set(rows.texts("query"))
    new_queries = [query for query in held_out.queries if query not in queries]
    forms = set(map(normal_form, queries))
    different = [query for query in new_queries if normal_form(query) not in forms]
    near_identical = {place for place, _ in find_near_identical(different, queries)}
    return len(new_queries) - len(different) + len(near_identical)
