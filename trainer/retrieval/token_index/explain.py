"""Explains a hit: the token of the document that each token of the query matched."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from trainer.batch import Texts
from trainer.models.contracts.text import Role
from trainer.models.encoder import Encoder
from trainer.models.tokenizers.marking import filling_id
from trainer.retrieval.encoding.encode import inference
from trainer.strategies.devices import Precision


@dataclass(frozen=True, slots=True)
class Match:
    """A token of the query, the nearest token of the document, and their similarity."""

    query_token: str
    document_token: str
    similarity: float
    filling: bool
    """True when the token of the query only expands it."""


def explain(
    encoder: Encoder, question: str, document: str, precision: Precision = "fp32"
) -> list[Match]:
    """Returns one match per token of the question that counts, in their order.

    The similarities add up to the score of the document. The document is encoded again from its
    text, so the sum is exact also for a compressed index.
    """
    with inference(encoder, precision):
        query_tokens, query, text_tokens = _scored_tokens(encoder, question, "query")
        document_tokens, vectors, _ = _scored_tokens(encoder, document, "document")
        if not document_tokens:
            return []
        best = (query @ vectors.T).max(1)
    return [
        Match(token, document_tokens[nearest], similarity, place >= text_tokens)
        for place, (token, nearest, similarity) in enumerate(
            zip(query_tokens, best.indices.tolist(), best.values.tolist(), strict=True)
        )
    ]


def _scored_tokens(
    encoder: Encoder, text: str, role: Role
) -> tuple[list[str], Float[Tensor, "token dimension"], int]:
    """Returns the tokens that count, their vectors, and their number without expansion."""
    texts: Texts = encoder.tokenize([text], role)
    vectors = encoder(texts)[0].float()
    is_scored = vectors.any(-1)
    ids = texts.pad()[0][0][is_scored.cpu()].tolist()
    filling = filling_id(encoder.tokenizer)
    text_tokens = max((place for place, token in enumerate(ids, 1) if token != filling), default=0)
    return (
        [str(encoder.tokenizer.convert_ids_to_tokens(token)) for token in ids],
        vectors[is_scored],
        text_tokens,
    )
