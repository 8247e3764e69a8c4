"""Splits pairs into train, dev and test without leaks, and writes them as a BEIR folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from trainer.batch import identity
from trainer.data.fingerprint import fingerprint_of
from trainer.data.near_duplicates import near_identical_pairs, normal_form
from trainer.data.prepare.beir_folder import BeirSet, check_beir_target, write_beir_folder
from trainer.data.prepare.judged_pairs import JudgedPairs, read_judged_pairs
from trainer.data.prepare.split_result import SplitResult
from trainer.data.splits import connected_groups, fill_splits
from trainer.errors import BadFolder, BadRecipe

_README = """{name}: pairs of {source}, split into train, dev and test by `nearfar data split`.

Queries that are near-identical{or_share} are in one split.

{lines}
"""


@dataclass(frozen=True)
class SplitRules:
    """How queries are divided among the splits."""

    dev: float = 0.1
    """Share of the queries for dev (0 to 1)."""
    test: float = 0.1
    """Share of the queries for test (0 to 1). Training gets the others."""
    shared_documents: bool = False
    """Whether one document may answer queries of several splits."""

    def __post_init__(self) -> None:
        if min(self.dev, self.test) < 0 or self.dev + self.test >= 1:
            raise BadRecipe(
                f"--dev {self.dev:g} and --test {self.test:g} leave nothing for training; give two"
                " shares from 0 on whose sum is below 1, e.g. 0.1 and 0.1"
            )

    def sizes(self, queries: int) -> dict[str, int]:
        """Returns the number of queries for test and for dev, at least one where there is a
        share.
        """
        shares = {"test": self.test, "dev": self.dev}
        return {name: max(1, round(share * queries)) for name, share in shares.items() if share}


def split_pairs(
    source: str,
    target: Path,
    rules: SplitRules = SplitRules(),
    *,
    corpus: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_bad_rows_ratio: float = 0.001,
    replace: bool = False,
) -> SplitResult:
    """Writes the pairs of a source, in any layout, to a BEIR folder with train, dev and test.

    Queries that share a positive document, or whose texts are near-identical, are in one split,
    directly or through other queries. The splits depend only on the texts, not on their order.
    Raises BadData, BadFolder or TooManyBadRows; then nothing is written.
    """
    check_beir_target(target, replace)
    data_set = read_judged_pairs(source, corpus, columns, max_bad_rows_ratio)
    queries, sizes = list(data_set.queries), rules.sizes(len(data_set.queries))
    near_identical = near_identical_pairs(queries)
    groups = query_groups(
        queries, () if rules.shared_documents else list(data_set.pairs), near_identical
    )
    result = SplitResult(data_set, _fill(queries, groups, sizes), groups, near_identical, sizes)
    result.check()
    origin: dict[str, object] = {
        "name": target.name,
        "pairs": fingerprint_of(source),
        "corpus": None if corpus is None else fingerprint_of(corpus),
        "dev": rules.dev,
        "test": rules.test,
        "shared_documents": rules.shared_documents,
    }
    readme = _README.format(
        name=target.name,
        source=source,
        or_share="" if rules.shared_documents else ", or share an answer,",
        lines="\n".join(result.lines),
    )
    try:
        write_beir_folder(target, _beir_set(data_set, result, readme, origin), replace)
    except OSError as error:
        raise BadFolder(f"{target} cannot be written: {error.strerror or error}") from error
    return result


def query_groups(
    queries: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    near_identical: Sequence[tuple[int, int]],
) -> Int[np.ndarray, " query"]:
    """Returns a number per query, which is the same for queries that must stay together.

    These share a document in `pairs` (texts of query and document, in normal form), are the
    document of the other one, or are near-identical (positions), directly or through other queries.

    >>> pairs = [("a", "x"), ("b", "X!"), ("d", "z"), ("e", "d")]
    >>> query_groups(["a", "b", "c", "d", "e"], pairs, [(1, 2)]).tolist()
    [0, 0, 0, 3, 3]
    """
    position = {query: number for number, query in enumerate(queries)}
    first_position: dict[int, int] = {}
    links = [(number, number) for number in position.values()] + list(near_identical)
    for query, document in pairs:
        form = identity(normal_form(document))
        links.append((position[query], first_position.setdefault(form, position[query])))
    for query, number in position.items() if pairs else ():
        links.append((number, first_position.get(identity(normal_form(query)), number)))
    return connected_groups(*np.array(links, np.int64).T)[: len(queries)]


def _fill(
    queries: Sequence[str], groups: Int[np.ndarray, " query"], sizes: Mapping[str, int]
) -> dict[str, list[str]]:
    """Returns the queries of each split. The order of the queries changes nothing."""
    members: dict[int, list[str]] = {}
    for query, group in zip(queries, groups.tolist(), strict=True):
        members.setdefault(group, []).append(query)
    # The first text in the alphabet decides: the lowest hash would be that of a large group.
    return fill_splits([sorted(group) for group in members.values()], sizes)


def _beir_set(
    data_set: JudgedPairs, result: SplitResult, readme: str, origin: dict[str, object]
) -> BeirSet:
    qrels: dict[str, list[tuple[str, str, int]]] = {name: [] for name in result.splits}
    for query, document in data_set.pairs:
        ids = data_set.queries[query], data_set.documents[document].id
        qrels[result.split_of[query]].append((*ids, 1))
    return BeirSet(
        (
            {"_id": document.id, "title": document.title, "text": document.text}
            for document in data_set.documents.values()
        ),
        ({"_id": key, "text": text} for text, key in data_set.queries.items()),
        qrels,
        readme,
        origin,
    )
