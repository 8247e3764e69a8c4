"""How well an index finds the right documents: what is lost to searching everything exactly."""

from typing import TYPE_CHECKING

from trainer.errors import BadData
from trainer.evaluation.metrics import RetrievalRun
from trainer.retrieval.indexes.dense import Index
from trainer.retrieval.indexes.open_index import fitting, hits
from trainer.retrieval.token_index.index import LateIndex
from trainer.strategies.devices import Precision

if TYPE_CHECKING:
    from trainer.data.retrieval_set import RetrievalSet
    from trainer.models.encoder import Encoder


def check_fits(encoder: "Encoder", index: Index | LateIndex, set: "RetrievalSet") -> None:
    """Raises BadData when the index cannot be of the set's documents, BadModel when it is of
    another model: before anything is encoded.
    """
    _check_count(index, set)
    fitting(index, encoder)


def _check_count(index: Index | LateIndex, set: "RetrievalSet") -> None:
    if index.manifest.count != len(set.documents):
        raise BadData(
            f"{index.folder} holds {index.manifest.count:,} documents and {set.name} has"
            f" {len(set.documents):,}; build the index of the set's own corpus"
        )


def index_run(
    encoder: "Encoder",
    index: Index | LateIndex,
    set: "RetrievalSet",
    k: int,
    precision: Precision = "fp32",
) -> RetrievalRun:
    """The first k documents that the index gives for each query. Raises BadData when it holds other
    documents than the set, BadModel for another model.
    """
    _check_count(index, set)
    found = hits(index, encoder, list(set.queries), k, precision)
    run: RetrievalRun = {
        query: {hit.document.id: hit.score for hit in of_query}
        for query, of_query in zip(set.query_ids, found, strict=True)
    }
    known = frozenset(set.document_ids)
    if strange := next(
        (document for of_query in run.values() for document in of_query if document not in known),
        None,
    ):
        raise BadData(
            f"{index.folder} holds a document {strange!r} that {set.name} has not; build the index"
            " of the set's own corpus"
        )
    return run
