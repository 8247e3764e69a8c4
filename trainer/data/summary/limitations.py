"""Why figures that are measured on a set are too high, and what to do about it."""

PAIRS_ALONE = "documents of the pairs"
MADE_QUERIES = "made from the documents: figures say little about real questions"


def search_limitation(count: int, documents: str) -> str:
    """Says that only so many documents are searched; `documents` names them."""
    return (
        f"searched among the {count:,} {documents} alone, not a whole corpus: figures are too high"
    )


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
