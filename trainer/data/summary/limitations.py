"""Why figures that are measured on a set are too high, and what to do about it."""

from pathlib import Path

from trainer.data.readers.beir import (
    QUERIES_OF_USERS,
    has_documents_of_pairs_alone,
    kinds_of_pairs,
)

_PAIRS_ALONE = "documents of the pairs"
_MADE_QUERIES = "made from the documents: figures say little about real questions"


def search_limitation(count: int, documents: str) -> str:
    """Says that only so many documents are searched; `documents` names them."""
    return (
        f"searched among the {count:,} {documents} alone, not a whole corpus: figures are too high"
    )


def limitation_of_folder(folder: Path, count: int) -> str:
    """Returns the limitation of a BEIR folder of so many documents; "" if there is none."""
    if has_documents_of_pairs_alone(folder):
        return search_limitation(count, _PAIRS_ALONE)
    if set(kinds_of_pairs(folder)) <= QUERIES_OF_USERS:
        return ""
    return _MADE_QUERIES


def limitation_advice(limitation: str, option: str) -> str:
    """Returns what to do about a limitation; `option` names a corpus.

    >>> limitation_advice("searched among 9 answers alone", "--corpus")
    'Name a file of all documents with --corpus.'
    >>> limitation_advice("searched among the 9 documents of the pairs alone", "--corpus")
    'Split the pairs again with all documents: nearfar data split PAIRS --corpus FILE.'
    """
    if _PAIRS_ALONE in limitation:  # the folder has its own corpus, so that no option changes it
        return "Split the pairs again with all documents: nearfar data split PAIRS --corpus FILE."
    if limitation == _MADE_QUERIES:
        return "Measure on real questions too."
    return f"Name a file of all documents with {option}."
