"""Explains a hit of a sparse model: the terms that the query and the document share."""

from dataclasses import dataclass

from trainer.models.encoder import VectorEncoder
from trainer.retrieval.encoding.encode import encode_documents, encode_queries


@dataclass(frozen=True, slots=True)
class SharedTerm:
    """A word that is active in the query and in the document."""

    term: str
    query_weight: float
    document_weight: float
    score: float
    """The product of the weights. The products of all shared terms add up to the score."""


def shared_terms(encoder: VectorEncoder, question: str, document: str) -> list[SharedTerm]:
    """Returns the terms that a question and a document share, the largest product first.

    The document is encoded again from its text.
    """
    query_weights, document_weights = (
        {int(word): float(weight) for word, weight in vectors[0]}
        for vectors in (encode_queries(encoder, [question]), encode_documents(encoder, [document]))
    )
    terms = [
        SharedTerm(
            str(encoder.tokenizer.convert_ids_to_tokens(word)),
            query_weight,
            document_weights[word],
            query_weight * document_weights[word],
        )
        for word, query_weight in query_weights.items()
        if word in document_weights
    ]
    return sorted(terms, key=lambda term: -term.score)
