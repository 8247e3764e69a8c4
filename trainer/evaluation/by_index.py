"""How well an index finds the right documents: what is lost to searching everything exactly."""

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData
from trainer.evaluation.metrics import RetrievalRun
from trainer.models.encoder import VectorEncoder
from trainer.retrieval.indexes.index import Index
from trainer.retrieval.indexes.searcher import hits
from trainer.strategies.devices import Precision


def check_fits(encoder: VectorEncoder, index: Index, judged_set: RetrievalSet) -> None:
    """Raises BadData when the index cannot be of the set's documents, BadModel when it is of
    another model: before anything is encoded.
    """
    _check_count(index, judged_set)
    index.fit_encoder(encoder)


def _check_count(index: Index, judged_set: RetrievalSet) -> None:
    if index.manifest.count != len(judged_set.documents):
        raise BadData(
            f"{index.folder} holds {index.manifest.count:,} documents and {judged_set.name} has"
            f" {len(judged_set.documents):,}; build the index of the set's own corpus"
        )


def index_run(
    encoder: VectorEncoder,
    index: Index,
    judged_set: RetrievalSet,
    k: int,
    precision: Precision = "fp32",
) -> RetrievalRun:
    """The first k documents that the index gives for each query. Raises BadData when it holds other
    documents than the set, BadModel for another model.
    """
    _check_count(index, judged_set)
    hits_per_query = hits(index, encoder, judged_set.queries, k, precision)
    run: RetrievalRun = {
        query: {hit.document.id: hit.score for hit in hits}
        for query, hits in zip(judged_set.query_ids, hits_per_query, strict=True)
    }
    known = frozenset(judged_set.document_ids)
    foreign = (document for hits in run.values() for document in hits if document not in known)
    if document := next(foreign, None):
        raise BadData(
            f"{index.folder} holds a document {document!r} that {judged_set.name} has not; build"
            " the index of the set's own corpus"
        )
    return run
