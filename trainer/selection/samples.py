"""Smaller sets of judged queries, on which many candidates are compared quickly."""

from dataclasses import replace

from trainer.data.retrieval_set import RetrievalSet, select_queries
from trainer.data.splits import in_hash_order
from trainer.retrieval.bm25 import Bm25

_NEAR_DOCUMENTS = 10
"""Documents per query that share words with it."""


def sample_set(
    judged_set: RetrievalSet,
    share: float,
    least_queries: int,
    dev_set: RetrievalSet | None = None,
) -> RetrievalSet:
    """Returns a share of the queries, but not fewer than `least_queries`, and of the documents.

    The documents are those that are judged for these queries, those that BM25 finds for them, which
    are hard to tell apart, and others chosen by a hash. A search among fewer documents finds more,
    so the figures compare systems with each other, and with nothing else. The documents of
    `dev_set`, on which weights are chosen, are there too.
    """
    count = max(least_queries, round(share * len(judged_set.queries)))
    sample = select_queries(judged_set, count)
    documents = judged_set.documents
    near = Bm25(documents).best(sample.queries, _NEAR_DOCUMENTS)
    rows = {int(row) for best_rows, _ in near for row in best_rows}
    grades = [*sample.qrels.values(), *(dev_set.qrels.values() if dev_set else ())]
    relevant_documents = {
        document for documents_of_query in grades for document in documents_of_query
    }
    rows |= {
        row
        for row, document in enumerate(judged_set.document_ids)
        if document in relevant_documents
    }
    for row in in_hash_order([str(document) for document in judged_set.document_ids]):
        if len(rows) >= share * len(documents):
            break
        rows.add(int(row))
    order = sorted(rows)
    return replace(
        sample,
        document_ids=tuple(judged_set.document_ids[row] for row in order),
        documents=tuple(documents[row] for row in order),
        limitation="a sample of the documents was searched: figures are too high",
    )
