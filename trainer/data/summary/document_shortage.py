"""A warning when the training pairs have too few different documents to learn from."""

FEW_DOCUMENTS = 200
"""With fewer different positives, training may do harm.

A batch of 64 queries has a third of them or more. So within a few steps the model has compared
each with all the others, and what is left to learn is to know these texts by heart. Measured: 990
pairs on 90 documents with the default LoRA recipe took nDCG@10 from 0.743 to 0.688. It need not be
so: 396 pairs on 78 documents of azure-cli, where the weights of step 8 of 20 were the best, took
that of azure-cli from 0.816 to 0.897 (1,000 documents), and of tldr from 0.807 to 0.777.
"""
PAIRS_PER_DOCUMENT = 10
"""With more pairs per different positive, training may do harm as well.

A document is then the right answer more than ten times in each pass over the pairs, and forty times
in the four passes of the default LoRA recipe. In the measurement above it was 11 times per pass.
On the documentation of two command lines, where training helps, it is 1.2 and 1.6 times.
"""
ADVICE = (
    "Give pairs on more documents, or train for fewer steps (optimization.epochs,"
    " optimization.min_steps) or at a lower optimization.learning_rate; keep or set"
    " validation.interpolate=true"
)


def document_shortage(pairs: int, documents: int) -> str:
    """Returns what is wrong if training pairs have few different documents as positives, else "".

    >>> document_shortage(990, 90)
    'the 990 training pairs have only 90 different documents; a model may learn these by heart'
    >>> document_shortage(4399, 2717)
    ''
    """
    if documents >= FEW_DOCUMENTS and pairs <= PAIRS_PER_DOCUMENT * documents:
        return ""
    return (
        f"the {pairs:,} training pairs have only {documents:,} different documents; a model may"
        " learn these by heart"
    )
