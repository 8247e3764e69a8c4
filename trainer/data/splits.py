"""Splits without leaks: rows that share a query or a document stay in the same split.

There is no random state: the order comes from hashes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import compress

import numpy as np
from jaxtyping import Bool, Int

from trainer.batch import identity
from trainer.data.near_duplicates import find_near_identical, normal_form, word_set
from trainer.data.order import permute
from trainer.data.rows import Rows
from trainer.errors import BadData
from trainer.progress import count_items

_AT_ONCE = 1 << 16


def connected_groups(*keys: Int[np.ndarray, " item"]) -> Int[np.ndarray, " item"]:
    """Returns the group number of each item, which is the lowest item in the group.

    Two items are in one group when they share a value in any of `keys`, directly or through other
    items. Labels spread along shared keys and then move to the label of their label, until nothing
    changes (Shiloach and Vishkin 1982).

    >>> connected_groups(np.array([1, 2, 3, 4]), np.array([7, 8, 7, 9])).tolist()
    [0, 1, 0, 3]
    """
    positions = [np.unique(values, return_inverse=True)[1] for values in keys]
    group = np.arange(len(keys[0]))
    while True:
        previous_group = group
        for position in positions:
            lowest = np.full(len(group), len(group))
            np.minimum.at(lowest, position, group)
            group = lowest[position]
        group = group[group]
        if np.array_equal(group, previous_group):
            return group


def in_hash_order(names: Sequence[str]) -> list[int]:
    """Returns the positions of `names`, in an order that depends only on the names.

    >>> in_hash_order(["a", "b", "c", "d"])
    [3, 0, 1, 2]
    """
    return sorted(
        range(len(names)),
        key=lambda position: (
            blake2b(names[position].encode("utf-8"), digest_size=16).digest(),
            position,
        ),
    )


def split_by_document(
    positives: Mapping[str, Sequence[str]], sizes: Mapping[str, int]
) -> dict[str, list[str]]:
    """Returns the queries of each split of `sizes`. All other queries are in "train".

    Queries that share a document are in the same split. No split is larger than its size.
    """
    pairs = [
        (number, identity(document))
        for number, documents in enumerate(positives.values())
        for document in documents
    ]
    query_numbers, documents = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    group_numbers = connected_groups(query_numbers, documents)
    queries = list(positives)
    queries_by_group: dict[int, list[str]] = {}
    for query, group in dict(
        zip(query_numbers.tolist(), group_numbers.tolist(), strict=True)
    ).items():
        queries_by_group.setdefault(group, []).append(queries[query])
    return fill_splits(list(queries_by_group.values()), sizes)


def fill_splits(groups: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Returns the members of each split of `sizes`. All other members are in "train".

    A group stays in one split. Groups are taken in the order of the hash of their first member. No
    split is larger than its size.
    """
    splits: dict[str, list[str]] = {name: [] for name in (*sizes, "train")}
    for position in in_hash_order([group[0] for group in groups]):
        group_queries = groups[position]
        name = next(
            (
                name
                for name, size in sizes.items()
                if len(splits[name]) + len(group_queries) <= size
            ),
            "train",
        )
        splits[name].extend(group_queries)
    return splits


@dataclass(frozen=True)
class HeldOut:
    """The rows that are held out for validation, and those that remain for training."""

    train: Int[np.ndarray, " _"]
    validation: Int[np.ndarray, " _"]
    near_duplicates: int
    """Number of rows in neither part: their query is near-identical to a validation query."""


def hold_out(rows: Rows, ratio: float, max_queries: int, seed: int) -> tuple[Rows, Rows]:
    """Returns training rows, and validation rows (see `choose_held_out`)."""
    return divide(rows, choose_held_out(rows, ratio, max_queries, seed))


def divide(rows: Rows, held_out: HeldOut) -> tuple[Rows, Rows]:
    """Returns training rows and validation rows. Rows in neither part are noted in the report."""
    if held_out.near_duplicates:
        rows.report.notes.append(
            f"{held_out.near_duplicates} training rows were left out, because their query is"
            " near-identical to a validation query"
        )
    return rows.select(held_out.train), rows.select(held_out.validation)


def choose_held_out(rows: Rows, ratio: float, max_queries: int, seed: int) -> HeldOut:
    """Chooses validation rows with about `ratio` of the queries (at most `max_queries`).

    Rows that share a query or a document, directly or through other rows, stay in the same part.
    Queries are compared in normal form, without word order and articles. Training rows whose query
    is near-identical to a validation query are dropped. Raises BadData when the rows cannot be
    split.
    """
    is_validation = _validation_rows(rows, ratio, max_queries, seed)
    train = np.flatnonzero(~is_validation)
    near_duplicates = [
        position
        for position, _ in find_near_identical(
            compress(_counted_texts(rows, "query", "comparing queries"), ~is_validation),
            dict.fromkeys(compress(rows.texts("query"), is_validation)),
        )
    ]
    if len(near_duplicates) == len(train):
        raise BadData(
            f"{rows.report.source}: all its queries are near-identical, so none can be held out;"
            " give data.validation=FILE."
        )
    return HeldOut(
        np.delete(train, near_duplicates), np.flatnonzero(is_validation), len(near_duplicates)
    )


def _validation_rows(
    rows: Rows, ratio: float, max_queries: int, seed: int
) -> Bool[np.ndarray, " row"]:
    """Returns True for the rows of the groups that are held out. Raises BadData if these are none
    or all.
    """
    queries, group = _groups(rows)
    groups = int(group.max()) + 1
    _, first_rows = np.unique(queries, return_index=True)
    target = min(max_queries, max(1, round(ratio * len(first_rows))))
    sizes = np.bincount(group[first_rows], minlength=groups)
    del first_rows
    is_selected = _select_groups(sizes, _group_order(queries, group, groups, seed), target)
    if not is_selected.any() or is_selected.all():
        raise BadData(
            f"{rows.report.source}: no validation part can be held out: its {len(rows)} rows form"
            f" {groups} groups that share a query or a document, and {target} queries are to"
            " be held out. Give more varied rows, or a separate validation set:"
            " data.validation=FILE."
        )
    return is_selected[group]


def _groups(rows: Rows) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Returns a hash of each row's query in normal form, and the number of the row's group."""
    queries = np.fromiter(
        (
            identity(" ".join(sorted(word_set(query))))
            for query in _counted_texts(rows, "query", "grouping queries")
        ),
        np.int64,
        len(rows),
    )
    documents = np.fromiter(
        (
            identity(normal_form(positive))
            for positive in _counted_texts(rows, "positive", "grouping documents")
        ),
        np.int64,
        len(rows),
    )
    return queries, np.unique(connected_groups(queries, documents), return_inverse=True)[1]


def _counted_texts(rows: Rows, role: str, name: str) -> Iterator[str]:
    return count_items(rows.texts(role), name, "rows", len(rows))


def _group_order(
    queries: Int[np.ndarray, " row"], group: Int[np.ndarray, " row"], groups: int, seed: int
) -> Int[np.ndarray, " group"]:
    """Returns the groups in an order that depends on their queries and the seed, not on their
    position.
    """
    lowest = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(lowest, group, queries)
    places = [
        permute(np.arange(start, min(start + _AT_ONCE, groups)), groups, key=seed)
        for start in range(0, groups, _AT_ONCE)  # permuting needs 80 bytes per position
    ]
    return np.argsort(lowest)[np.concatenate(places)]


def _select_groups(
    sizes: Int[np.ndarray, " group"], order: Int[np.ndarray, " group"], target: int
) -> Bool[np.ndarray, " group"]:
    """Returns True for the groups that fill `target` queries, taken in order.

    If every group is larger, the smallest one is selected, unless it has more than half of all
    queries.
    """
    is_selected = np.zeros(len(sizes), bool)
    total = 0
    for group in order:
        if total == target:
            break
        if total + sizes[group] <= target:
            is_selected[group] = True
            total += sizes[group]
    smallest = int(np.argmin(sizes))
    if total == 0 and 2 * sizes[smallest] <= sizes.sum():
        is_selected[smallest] = True
    return is_selected
