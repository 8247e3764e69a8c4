"""Why a document was found: which of its tokens each token of the query met."""

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
    """A token of the query, the token of the document that is nearest to it, and how near."""

    query_token: str
    document_token: str
    similarity: float
    filling: bool
    """Whether the query's token is one of those that fill it up."""


def explain(
    encoder: Encoder, question: str, document: str, precision: Precision = "fp32"
) -> list[Match]:
    """One match for each token of the question that is scored, in their order; the similarities add
    up to the document's score.

    The document is encoded anew from its text, so the sum is the exact score also where the index
    holds less than that.
    """
    with inference(encoder, precision):
        query_tokens, query, written = _scored(encoder, question, "query")
        document_tokens, vectors, _ = _scored(encoder, document, "document")
        if not document_tokens:
            return []
        best = (query @ vectors.T).max(1)
    return [
        Match(token, document_tokens[nearest], similarity, place >= written)
        for place, (token, nearest, similarity) in enumerate(
            zip(query_tokens, best.indices.tolist(), best.values.tolist(), strict=True)
        )
    ]


def _scored(
    encoder: Encoder, text: str, role: Role
) -> tuple[list[str], Float[Tensor, "token dimension"], int]:
    """The tokens of a text that count, as the vocabulary writes them, their vectors, and how many
    there are before the filling.
    """
    texts: Texts = encoder.tokenize([text], role)
    vectors = encoder(texts.to(encoder.device))[0].float()
    there = vectors.any(-1)
    ids = texts.pad()[0][0][there.cpu()].tolist()
    filling = filling_id(encoder.tokenizer)
    written = max((place for place, id in enumerate(ids, 1) if id != filling), default=0)
    return [str(encoder.tokenizer.convert_ids_to_tokens(id)) for id in ids], vectors[there], written
