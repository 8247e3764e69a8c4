"""Compares the input of the ranks, which must be the same on all of them."""

import hashlib
import socket
from collections import Counter
from collections.abc import Sequence

from trainer.collectives import gather_texts
from trainer.errors import BadMachine


def check_same(text: str | None, subject: str) -> None:
    """Raises BadMachine on every rank if `text` differs between ranks, and names those.

    A rank that gives None is not compared.
    """
    digest = "" if text is None else hashlib.sha256(text.encode()).hexdigest()
    answers = gather_texts([socket.gethostname(), digest])
    hosts, digests = answers[::2], answers[1::2]
    if odd := odd_ranks([digest or None for digest in digests]):
        places = ", ".join(f"rank {number} on {hosts[number]}" for number in odd)
        raise BadMachine(
            f"the ranks were started with different versions of the {subject}: not like most ranks"
            f" is {places}; start all of them with the same command and the same files"
        )


def odd_ranks(values: Sequence[str | None]) -> list[int]:
    """Returns the ranks whose value, one per rank, is not the most frequent one.

    If several are, the first of them counts. None is not compared.

    >>> odd_ranks(["b", "a", "a", None]), odd_ranks(["b", "a"])
    ([0], [1])
    """
    counts = Counter(value for value in values if value is not None)
    usual = max(counts, key=lambda value: counts[value], default=None)
    return [number for number, value in enumerate(values) if value not in (None, usual)]
