"""An index folder of either family, by what its manifest says."""

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import BadModel
from trainer.models.dense import DenseEncoder
from trainer.retrieval.indexes.dense import Hit, Index, hits_of
from trainer.retrieval.indexes.manifest import TOKEN_KINDS, read_content
from trainer.retrieval.token_index.index import LateIndex
from trainer.retrieval.vectors.encode import encode_for_search
from trainer.retrieval.vectors.token_vectors import encode_queries
from trainer.strategies.devices import Precision

if TYPE_CHECKING:
    from trainer.models.encoder import Encoder


def open_index(folder: Path) -> Index | LateIndex:
    """The index in `folder`: of one vector a document, or of one a token. Raises BadFolder when it
    is neither, or not whole.
    """
    return (
        LateIndex.open(folder)
        if read_content(Path(folder)).get("kind") in TOKEN_KINDS
        else Index.open(folder)
    )


def fitting(index: Index | LateIndex, encoder: "Encoder") -> "Encoder":
    """The encoder, its vectors cut where the index holds their beginnings. Raises BadModel when it
    is not the one of the index.
    """
    if isinstance(index, LateIndex):
        index.check_encoder(encoder)
        return encoder
    if not isinstance(encoder, DenseEncoder):
        raise BadModel(
            f"{index.folder} holds one vector a document, and the model gives one a token; search"
            f" with {index.manifest.made_with}"
        )
    if encoder.dimensions > index.manifest.dimensions:
        encoder = encoder.narrowed(
            index.manifest.dimensions
        )  # an index of the beginnings of its vectors, if it is the index's model
    index.check_encoder(encoder)
    return encoder


def hits(
    index: Index | LateIndex,
    encoder: "Encoder",
    questions: list[str],
    k: int,
    precision: Precision = "fp32",
) -> list[list[Hit]]:
    """The k best documents of each question, best first.

    Raises BadModel when the encoder is not the one of the index, BadData for a question no token of
    which an index of token vectors could compare.
    """
    encoder = fitting(index, encoder)
    if isinstance(index, LateIndex):
        scores, rows = index.search(
            encode_queries(encoder, questions, precision=precision).padded(), k
        )
    else:
        scores, rows = index.search(
            encode_for_search(encoder, questions, "query", precision=precision),  # type: ignore[arg-type]
            k,
        )
    return hits_of(index.document, scores, rows)
