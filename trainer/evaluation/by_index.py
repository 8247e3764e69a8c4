"""Measurement of search by an index, to compare it with exact search."""

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData
from trainer.evaluation.metrics import RetrievalRun
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.searcher import hits
from trainer.strategies.devices import Precision


def check_fits(encoder: VectorEncoder, index: Index, judged_set: RetrievalSet) -> None:
    """Checks an index before anything is encoded.

    Raises BadData when its documents cannot be those of the set, and BadModel when it is of another
    model.
    """
    _check_count(index, judged_set)
    index.fit_encoder(encoder)


def _check_count(index: Index, judged_set: RetrievalSet) -> None:
    if index.manifest.count != len(judged_set.documents):
        raise BadData(
            f"{index.folder} holds {index.manifest.count:,} documents, but {judged_set.name} has"
            f" {len(judged_set.documents):,}; build an index of the set's own corpus"
        )


def index_run(
    encoder: VectorEncoder,
    index: Index,
    judged_set: RetrievalSet,
    k: int,
    precision: Precision = "fp32",
) -> RetrievalRun:
    """Returns the first k documents of the index per query.

    Raises BadData when the index holds documents that are not in the set, and BadModel when it is
    of another model.
    """
    _check_count(index, judged_set)
    hits_per_query = hits(index, encoder, judged_set.queries, k, precision)
    run: RetrievalRun = {
        query: {hit.document.id: hit.score for hit in hits}
        for query, hits in zip(judged_set.query_ids, hits_per_query, strict=True)
    }
    document_ids = frozenset(judged_set.document_ids)
    foreign = (
        document for hits in run.values() for document in hits if document not in document_ids
    )
    if document := next(foreign, None):
        raise BadData(
            f"{index.folder} holds a document {document!r} that is not in {judged_set.name}; build"
            " an index of the set's own corpus"
        )
    return run
