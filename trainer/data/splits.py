"""Splits that do not leak: rows that share a query or a document stay on one side. No random state: order comes from hashes."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b


def connected(keys: Iterable[Sequence[Hashable]]) -> list[list[int]]:
    """Groups of item numbers; two items are in one group when they share a key, directly or through others (union-find).

    >>> connected([("a", "x"), ("b", "y"), ("c", "x")])
    [[0, 2], [1]]
    """
    parents: list[int] = []
    first_with: dict[Hashable, int] = {}

    def root(item: int) -> int:
        while parents[item] != item:
            parents[item] = parents[parents[item]]
            item = parents[item]
        return item

    for item, own_keys in enumerate(keys):
        parents.append(item)
        for key in own_keys:
            parents[root(item)] = root(first_with.setdefault(key, item))
    groups: dict[int, list[int]] = {}
    for item in range(len(parents)):
        groups.setdefault(root(item), []).append(item)
    return list(groups.values())


def in_hash_order(names: Sequence[str], seed: int = 0) -> list[int]:
    """Positions of `names` in an order that depends on each name and the seed alone.

    >>> in_hash_order(["a", "b", "c"]) == in_hash_order(["a", "b", "c"])
    True
    """
    return sorted(range(len(names)), key=lambda at: (blake2b(f"{seed}:{names[at]}".encode("utf-8", "surrogatepass"), digest_size=16).digest(), at))


def split_by_document(positives: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Queries of each split of `sizes`, the rest as "train": queries that share a document are in one split, none is larger than asked."""
    queries = list(positives)
    groups = connected(list(positives.values()))
    splits: dict[str, list[str]] = {name: [] for name in (*sizes, "train")}
    for at in in_hash_order([queries[group[0]] for group in groups]):
        members = [queries[item] for item in groups[at]]
        split = next((name for name, size in sizes.items() if len(splits[name]) + len(members) <= size), "train")
        splits[split].extend(members)
    return splits
