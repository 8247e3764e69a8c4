"""Texts to vectors, with next to no padding and the tokenizer running ahead of the model."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.batch import Texts
from trainer.collectives import all_rows, own_rounds, ranks
from trainer.errors import BadData, BadModel
from trainer.microbatches import micro_batches
from trainer.models.contracts.text import Role
from trainer.models.encoder import Encoder, VectorEncoder
from trainer.progress import Phase, phase
from trainer.retrieval.corpus import Document
from trainer.strategies.devices import Precision
from trainer.vectors.vectors import Vectors

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_DOCUMENTS = 1 << 16
_MOST_NUMBERS = 4096 * 180 * 128
"""The most documents in a block, and numbers in their vectors (400 MB)."""
_SHOWN_CHARACTERS = 80
"""Characters of a query in an error."""


def encode(
    encoder: VectorEncoder,
    texts: Sequence[str],
    role: Role,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Vectors:
    """The float32 vectors of texts, in their order, as the model gives them.

    A text that occurs twice is encoded once. Texts are tokenised in slices, one slice ahead of the
    model. Within a slice they go through the model in order of length, as many at once as stay
    within `micro_batch_tokens` padded tokens (null: 2 048 on a CPU, 65 536 on a GPU); ranks share
    them out. The encoder is in inference mode meanwhile and left as it was. Beside the result,
    memory holds two slices.

    Raises BadModel when a number is not finite.
    """
    places: dict[str, int] = {}
    inverse = [places.setdefault(text, len(places)) for text in texts]
    with (
        phase(
            "encoding queries" if role == "query" else "encoding documents", len(texts), "texts"
        ) as progress,
        inference(encoder, precision),
    ):
        slices = _encoded_slices(encoder, list(places), role, micro_batch_tokens, progress)
        vectors = encoder.vectors.join(slices, len(places), encoder.dimensions)
        progress.advance(len(texts) - len(places))
    check_finite(vectors, precision)
    return vectors if len(places) == len(inverse) else vectors.select(np.array(inverse, np.int64))


def encode_documents(
    encoder: VectorEncoder,
    texts: Sequence[str],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Vectors:
    """As `encode`, of documents, in the form that a search compares."""
    return encoder.for_search(encode(encoder, texts, "document", micro_batch_tokens, precision))


def encode_queries(
    encoder: VectorEncoder,
    queries: Sequence[str],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Vectors:
    """As `encode`, of queries, in the form that a search compares. Raises BadData for a query no
    token of which counts: it could find nothing.
    """
    vectors = encoder.for_search(encode(encoder, queries, "query", micro_batch_tokens, precision))
    if (empty := vectors.empty_texts()).size:
        text = queries[empty[0]]
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
        raise BadData(
            f"the query {shown!r} has no token that the model scores (punctuation alone, perhaps);"
            " say what to look for in words, or leave it out"
        )
    return vectors


@dataclass(frozen=True)
class Encoding:
    """How documents are encoded."""

    encoder: VectorEncoder
    precision: Precision = "fp32"
    micro_batch_tokens: int | None = None


@runtime_checkable
class Documents(Protocol):
    """Documents that are counted before they are read."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Document]: ...


class Block(NamedTuple):
    """Some documents of a corpus, encoded."""

    documents: list[Document]
    vectors: Vectors


def document_blocks(encoding: Encoding, documents: Documents) -> Iterator[Block]:
    """The documents with their vectors. Raises BadData for a document no token of which counts:
    nothing could ever find it.
    """
    encoder, rest = encoding.encoder, iter(documents)
    most_tokens = encoder.contract.document_max_length_tokens
    most_vectors = encoder.vectors_per_text("document", float(most_tokens))
    fitting = int(_MOST_NUMBERS / (encoder.dimensions * most_vectors))
    size = max(1, min(_MOST_DOCUMENTS, fitting))
    with phase("encoding documents", len(documents), "texts"):
        while block := list(itertools.islice(rest, size)):
            yield Block(block, _encoded(encoding, block))


def _encoded(encoding: Encoding, documents: list[Document]) -> Vectors:
    texts = [document.whole for document in documents]
    budget, precision = encoding.micro_batch_tokens, encoding.precision
    vectors = encode_documents(encoding.encoder, texts, budget, precision)
    if (empty := vectors.empty_texts()).size:
        raise BadData(
            f"document {documents[empty[0]].id!r} has no token that the model scores (punctuation"
            " alone, perhaps), so no search could find it; take it out of the corpus, or give it a"
            " text"
        )
    return vectors


def _encoded_slices(
    encoder: VectorEncoder,
    texts: list[str],
    role: Role,
    micro_batch_tokens: int | None,
    progress: Phase,
) -> Iterator[Vectors]:
    budget = micro_batch_tokens or default_micro_batch_tokens(encoder.device)
    for part in tokenized(encoder, texts, role, encoder.vectors.TEXTS_PER_BLOCK):
        own = own_micro_batches(encoder, part, budget, progress)
        yield encoder.vectors.from_micro_batches(own, len(part), encoder.dimensions, encoder.device)


def own_micro_batches(
    encoder: Encoder, texts: Texts, budget: int, progress: Phase
) -> Iterator[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]]:
    """This rank's micro-batches: rows of `texts` and their embeddings. Together the ranks give each
    text once.

    All ranks run equally many, since sharded weights are gathered by all together. What a rank
    computes beyond its share is not given out. `progress` counts the texts of all ranks.
    """
    cuts, remaining_texts = micro_batches(texts.lengths, budget), len(texts)
    for number in own_rounds(len(cuts)):
        rows = cuts[number % len(cuts)]
        encoded = encoder(texts.select(rows).to(encoder.device))
        if number < len(cuts):
            yield rows, encoded
        count = min(remaining_texts, all_rows(len(rows)))
        progress.advance(count)
        remaining_texts -= count
    progress.advance(remaining_texts)


def tokenized(
    encoder: Encoder, texts: list[str], role: Role, texts_at_once: int
) -> Iterator[Texts]:
    """The texts slice by slice; while one is used, the next is tokenised in a thread."""
    slices = [texts[start : start + texts_at_once] for start in range(0, len(texts), texts_at_once)]
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as ahead:
        waiting = ahead.submit(encoder.tokenize, slices[0], role) if slices else None
        for following in [*slices[1:], None][: len(slices)]:
            assert waiting is not None
            ready = waiting.result()
            waiting = ahead.submit(encoder.tokenize, following, role) if following else None
            yield ready


def default_micro_batch_tokens(device: torch.device) -> int:
    """Padded tokens of a micro-batch where nothing else is asked for."""
    return 2048 if device.type == "cpu" else 65536


def check_finite(vectors: Vectors, precision: Precision) -> None:
    """Raises BadModel when a number is infinite or undefined."""
    if not np.isfinite(vectors.rows).all():
        raise BadModel(
            "the model gives vectors with infinite or undefined numbers; its weights are damaged"
            f" or overflow in {precision}: try precision fp32, or train again with a lower learning"
            " rate"
        )


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model computes in `precision`."""
    return torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST)


@contextlib.contextmanager
def inference(encoder: Encoder, precision: Precision) -> Iterator[None]:
    """Within it the encoder computes without gradient and dropout; afterwards it is as it was."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    # What FSDP2 first makes in inference mode it could not write to in training; a single process
    # has nothing of the kind.
    without_gradient = torch.inference_mode() if ranks() == 1 else torch.no_grad()
    try:
        with without_gradient, autocast(encoder.device, precision):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
