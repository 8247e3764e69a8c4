"""Splits that do not leak: rows that share a query or a document stay on one side. No random state:
order comes from hashes.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Int

from trainer.batch import identity
from trainer.data.near_duplicates import near_identical, normal_form, word_set
from trainer.data.order import permuted
from trainer.data.rows import Rows
from trainer.errors import BadData


def connected(*keys: Int[np.ndarray, " item"]) -> Int[np.ndarray, " item"]:
    """A group number for each item, the lowest item in it: two items that share a value in any of
    `keys`, directly or through others, are in one group.

    Labels spread along shared keys and then jump to their label's label until nothing changes
    (Shiloach and Vishkin 1982).

    >>> connected(np.array([1, 2, 3, 4]), np.array([7, 8, 7, 9])).tolist()
    [0, 1, 0, 3]
    """
    positions = [np.unique(values, return_inverse=True)[1] for values in keys]
    group = np.arange(len(keys[0]))
    while True:
        before = group
        for position in positions:
            lowest = np.full(len(group), len(group))
            np.minimum.at(lowest, position, group)
            group = lowest[position]
        group = group[group]
        if np.array_equal(group, before):
            return group


def in_hash_order(names: Sequence[str]) -> list[int]:
    """Positions of `names` in an order that depends on the names alone.

    >>> in_hash_order(["a", "b", "c", "d"])
    [3, 0, 1, 2]
    """
    return sorted(
        range(len(names)),
        key=lambda at: (blake2b(names[at].encode("utf-8"), digest_size=16).digest(), at),
    )


def split_by_document(
    positives: Mapping[str, Sequence[str]], sizes: Mapping[str, int]
) -> dict[str, list[str]]:
    """Queries of each split of `sizes`, the rest as "train": queries that share a document are in
    one split, none is larger than asked.
    """
    pairs = [
        (number, identity(document))
        for number, documents in enumerate(positives.values())
        for document in documents
    ]
    asked, answers = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    groups: dict[int, list[str]] = {}
    queries = list(positives)
    for query, group in dict(
        zip(asked.tolist(), connected(asked, answers).tolist(), strict=True)
    ).items():
        groups.setdefault(group, []).append(queries[query])
    members = list(groups.values())
    splits: dict[str, list[str]] = {name: [] for name in (*sizes, "train")}
    for at in in_hash_order([group[0] for group in members]):
        name = next(
            (name for name, size in sizes.items() if len(splits[name]) + len(members[at]) <= size),
            "train",
        )
        splits[name].extend(members[at])
    return splits


def hold_out(rows: Rows, ratio: float, max_queries: int, seed: int) -> tuple[Rows, Rows]:
    """Training rows, and validation rows with about `ratio` of the queries, at most `max_queries`
    of them.

    Rows that share a query (in normal form, word order and articles aside) or a document, directly
    or through others, stay together; training rows whose query is near-identical to one held out
    are left out of both. Raises BadData when the rows cannot be parted.
    """
    queries = np.fromiter(
        (identity(" ".join(sorted(word_set(row.query)))) for row in rows), np.int64, len(rows)
    )
    documents = np.fromiter(
        (identity(normal_form(row.positive)) for row in rows), np.int64, len(rows)
    )
    group = connected(queries, documents)
    names, group = np.unique(group, return_inverse=True)
    distinct, first = np.unique(queries, return_index=True)
    sizes = np.bincount(group[first], minlength=len(names))
    target = min(max_queries, max(1, round(ratio * len(distinct))))
    held = _chosen_groups(sizes, _order(queries, group, len(names), seed), target)
    if not held.any() or held.all():
        raise BadData(
            f"{rows.report.source}: no validation part can be held out: its {len(rows)} rows form"
            f" {len(names)} groups that share a query or a document, and {target} queries are to be"
            " held out. Give more varied rows, or a validation set of its own:"
            " data.validation=FILE."
        )
    validation = rows.select(np.flatnonzero(held[group]))
    rest = np.flatnonzero(~held[group])
    train = rows.select(rest)
    twins = [
        at
        for at, _ in near_identical(
            (row.query for row in train), dict.fromkeys(row.query for row in validation)
        )
    ]
    if len(twins) == len(train):
        raise BadData(
            f"{rows.report.source}: all its queries are near-identical, so none can be held out;"
            " give data.validation=FILE."
        )
    if twins:
        rows.report.notes.append(
            f"{len(twins)} training rows left out: their query is near-identical to one held out"
        )
    return rows.select(np.delete(rest, twins)), validation


def _order(
    queries: Int[np.ndarray, " row"], group: Int[np.ndarray, " row"], groups: int, seed: int
) -> Int[np.ndarray, " group"]:
    """The groups in an order that depends on what they hold and the seed, not on where they
    stand.
    """
    lowest = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(lowest, group, queries)
    return np.argsort(lowest)[permuted(np.arange(groups), groups, key=seed)]


def _chosen_groups(
    sizes: Int[np.ndarray, " group"], order: Int[np.ndarray, " group"], target: int
) -> np.ndarray:
    """True for the groups that fill `target` queries, in order; where every group is larger, the
    smallest if it is at most half of all.
    """
    held = np.zeros(len(sizes), bool)
    total = 0
    for group in order.tolist():
        if total + sizes[group] <= target:
            held[group] = True
            total += sizes[group]
    smallest = int(np.argmin(sizes))
    if total == 0 and 2 * sizes[smallest] <= sizes.sum():
        held[smallest] = True
    return held
