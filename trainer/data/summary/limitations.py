"""Why figures that are measured on a set are too high, and what to do about it."""

from pathlib import Path

PAIRS_ALONE = "documents of the pairs"
MADE_QUERIES = "made from the documents: figures say little about real questions"


def search_limitation(count: int, documents: str) -> str:
    """Says that only so many documents are searched; `documents` names them."""
    return (
        f"searched among the {count:,} {documents} alone, not a whole corpus: figures are too high"
    )


def folder_limitation(folder: Path, count: int) -> str:
    """Returns the limitation of figures on a BEIR folder with so many documents; "" for none."""
    from trainer.data.readers.beir import (  # with torch, which a report does without
        QUERIES_OF_USERS,
        has_documents_of_pairs_alone,
        kinds_of_pairs,
    )

    if has_documents_of_pairs_alone(folder):
        return search_limitation(count, PAIRS_ALONE)
    return "" if set(kinds_of_pairs(folder)) <= QUERIES_OF_USERS else MADE_QUERIES


def limitation_advice(limitation: str, option: str) -> str:
    """Returns what to do about a limitation; `option` names a corpus.

    >>> limitation_advice("searched among 9 answers alone", "--corpus")
    'Name a file of all documents with --corpus.'
    >>> limitation_advice("searched among the 9 documents of the pairs alone", "--corpus")
    'Split the pairs again with all documents: nearfar data split PAIRS --corpus FILE.'
    """
    if PAIRS_ALONE in limitation:  # the folder has its own corpus, so that no option changes it
        return "Split the pairs again with all documents: nearfar data split PAIRS --corpus FILE."
    if limitation == MADE_QUERIES:
        return "Measure on real questions too."
    return f"Name a file of all documents with {option}."
