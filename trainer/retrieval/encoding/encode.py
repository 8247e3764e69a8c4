"""Encoding of texts; a thread tokenises while the model computes."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.batch import Texts
from trainer.collectives import agree, all_rows, own_rounds, ranks
from trainer.data.readers.corpus import Document
from trainer.errors import BadData, BadModel
from trainer.kernels.freed_memory import keep_freed_memory
from trainer.microbatches import micro_batches
from trainer.models.contracts.text import Role
from trainer.models.encoder import Encoder, VectorEncoder
from trainer.models.parts.rounded import rounded_weights
from trainer.progress import Phase, phase
from trainer.strategies.devices import Precision
from trainer.vectors.vectors import Vectors

TextOrPair = TypeVar("TextOrPair")
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_STRIDE = 0.6180339887  # the golden ratio: its multiples spread evenly
_MOST_DOCUMENTS = 1 << 16
_MOST_NUMBERS = 4096 * 180 * 128
"""The largest number of documents in a block, and of numbers in their vectors (400 MB)."""
_MOST_CHARACTERS = 1 << 28
"""A block ends with the document that reaches this number: one may hold the bytes of an image."""
_SHOWN_CHARACTERS = 80
"""Characters of a query in an error."""


def encode(
    encoder: VectorEncoder,
    texts: Sequence[str],
    role: Role,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Vectors:
    """Returns the float32 vectors of texts, in their order.

    A text that occurs twice is encoded once. Texts are tokenised in slices, one slice ahead of the
    model. Within a slice, texts are sorted by length and cut into micro-batches of at most
    `micro_batch_tokens` tokens (default 2048 on a CPU, 65536 on a GPU). Ranks share the
    micro-batches. In addition to the result, memory holds two slices. The encoder computes in
    inference mode; afterwards its modes are as before.

    Raises BadModel when a number is not finite.
    """
    places: dict[str, int] = {}
    inverse = [places.setdefault(text, len(places)) for text in texts]
    with (
        _encoding_phase(encoder, role, len(texts)) as progress,
        inference(encoder, precision),
    ):
        slices = _encoded_slices(encoder, list(places), role, micro_batch_tokens, progress)
        vectors = encoder.vectors.join(slices, len(places), encoder.dimensions)
        progress.advance(len(texts) - len(places))
    check_finite(vectors, precision)
    return vectors if len(places) == len(inverse) else vectors.select(np.array(inverse, np.int64))


def _encoding_phase(
    encoder: VectorEncoder, role: Role, count: int
) -> contextlib.AbstractContextManager[Phase]:
    if role == "document" and encoder.encodes_images:
        return phase("encoding images", count, "images")
    return phase("encoding queries" if role == "query" else "encoding documents", count, "texts")


def encode_documents(
    encoder: VectorEncoder,
    texts: Sequence[str],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Vectors:
    """Encodes documents (see `encode`) and returns their vectors in the form for search."""
    return encoder.for_search(encode(encoder, texts, "document", micro_batch_tokens, precision))


def encode_queries(
    encoder: VectorEncoder,
    queries: Sequence[str],
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Vectors:
    """Encodes queries (see `encode`) and returns their vectors in the form for search.

    Raises BadData for a query that has no token that counts: it could find nothing.
    """
    vectors = encoder.for_search(encode(encoder, queries, "query", micro_batch_tokens, precision))
    if (empty := vectors.empty_texts()).size:
        text = queries[empty[0]]
        quote = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
        raise BadData(
            f"the query {quote!r} has no token that the model scores (punctuation alone, perhaps);"
            " write the query in words, or leave it out"
        )
    return vectors


@dataclass(frozen=True)
class Encoding:
    """An encoder, and how it encodes documents."""

    encoder: VectorEncoder
    precision: Precision = "fp32"
    micro_batch_tokens: int | None = None


@runtime_checkable
class Documents(Protocol):
    """Documents whose number is known before they are read."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Document]: ...


class Block(NamedTuple):
    """A block of documents of a corpus with their vectors."""

    documents: list[Document]
    vectors: Vectors


def document_blocks(encoding: Encoding, documents: Documents) -> Iterator[Block]:
    """Yields the documents with their vectors, in blocks.

    Raises BadData for a document that has no token that counts: no search could find it.
    """
    encoder, rest = encoding.encoder, iter(documents)
    most_tokens = encoder.contract.document_max_length_tokens
    most_vectors = encoder.vectors_per_text("document", float(most_tokens))
    fitting = int(_MOST_NUMBERS / (encoder.dimensions * most_vectors))
    size = max(1, min(_MOST_DOCUMENTS, fitting))
    with _encoding_phase(encoder, "document", len(documents)):
        while block := _first_documents(rest, size):
            yield Block(block, _encode_block(encoding, block))


def _first_documents(documents: Iterator[Document], count: int) -> list[Document]:
    """Takes up to `count` documents; fewer if they are long."""
    block, characters = list[Document](), 0
    for document in itertools.islice(documents, count):
        block.append(document)
        characters += len(document.content)
        if characters >= _MOST_CHARACTERS:
            break
    return block


def _encode_block(encoding: Encoding, documents: list[Document]) -> Vectors:
    texts = [document.content for document in documents]
    budget, precision = encoding.micro_batch_tokens, encoding.precision
    vectors = encode_documents(encoding.encoder, texts, budget, precision)
    if (empty := vectors.empty_texts()).size:
        raise BadData(
            f"document {documents[empty[0]].id!r} has no token that the model scores (punctuation"
            " alone, perhaps), so no search could find it; remove it from the corpus, or give it a"
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
    budget = micro_batch_tokens or default_micro_batch_tokens(encoder)
    size = encoder.texts_per_slice(role)
    for part in tokenized_slices(texts, size, lambda texts: encoder.tokenize(texts, role)):
        rank_micro_batches = own_micro_batches(encoder, part, budget, progress)
        yield encoder.vectors.from_micro_batches(
            rank_micro_batches, len(part), encoder.dimensions, encoder.device
        )


def own_micro_batches(
    encoder: Encoder, texts: Texts, budget: int, progress: Phase, one_rank: bool = False
) -> Iterator[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]]:
    """Yields this rank's micro-batches: rows of `texts` and their embeddings.

    Each text is given by one rank. All ranks compute equally many micro-batches, because all of
    them must gather sharded weights together; a surplus one is computed but not given. `progress`
    counts the texts of all ranks. With `one_rank`, this rank computes all of them alone.
    """
    cuts = mix(micro_batches(texts.lengths, budget, encoder.is_padded))
    remaining_texts = len(texts)
    for number in range(len(cuts)) if one_rank else own_rounds(len(cuts)):
        if not one_rank:
            agree()
        rows = cuts[number % len(cuts)]
        embeddings = encoder(texts.select(rows))
        if number < len(cuts):
            yield rows, embeddings
        count = min(remaining_texts, len(rows) if one_rank else all_rows(len(rows)))
        progress.advance(count)
        remaining_texts -= count
    progress.advance(remaining_texts)


def mix(cuts: list[Int[Tensor, " _"]]) -> list[Int[Tensor, " _"]]:
    """Returns micro-batches in an order in which long and short texts alternate.

    Micro-batches are sorted by length, so texts per second would grow from the first to the last,
    and the time left would be far too long at the beginning. The longest texts stay first, so that
    too little memory is noticed at once.
    """
    return [
        cuts[number] for number in sorted(range(len(cuts)), key=lambda number: number * _STRIDE % 1)
    ]


def tokenized_slices(
    items: list[TextOrPair], size: int, tokenize: Callable[[list[TextOrPair]], Texts]
) -> Iterator[Texts]:
    """Yields tokenised slices of `size` texts or pairs; a thread tokenises the next meanwhile."""
    slices = [items[start : start + size] for start in range(0, len(items), size)]
    if len(slices) == 1:  # one question: a thread would take longer than to encode it by a table
        yield tokenize(slices[0])
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as tokenizer:
        waiting = tokenizer.submit(tokenize, slices[0]) if slices else None
        for following in [*slices[1:], None][: len(slices)]:
            assert waiting is not None
            ready = waiting.result()
            waiting = tokenizer.submit(tokenize, following) if following else None
            yield ready


def default_micro_batch_tokens(encoder: Encoder) -> int:
    """Returns the default number of tokens per micro-batch."""
    if not encoder.has_layers:
        return 1 << 20  # a table of vectors has no activations that a cache should hold
    return 2048 if encoder.device.type == "cpu" else 65536


def check_finite(vectors: Vectors, precision: Precision) -> None:
    """Raises BadModel when a number is infinite or undefined."""
    if not np.isfinite(vectors.rows).all():
        raise BadModel(
            "the model gives vectors with infinite or undefined numbers; its weights are damaged"
            f" or overflow in {precision}: try precision fp32, or train again with a lower learning"
            " rate"
        )


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Returns the context in which a model computes in `precision`."""
    return torch.autocast(
        device.type, AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES
    )


@contextlib.contextmanager
def inference(encoder: Encoder, precision: Precision) -> Iterator[None]:
    """Context in which the encoder computes without gradient and dropout; restores its modes."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    # Buffers that FSDP2 creates in inference mode could not be written in training. A single
    # process has no such buffers.
    without_gradient = torch.inference_mode() if ranks() == 1 else torch.no_grad()
    dtype = AUTOCAST_DTYPES.get(precision)
    if encoder.device.type == "cpu":
        keep_freed_memory()
    try:
        with (
            without_gradient,
            autocast(encoder.device, precision),
            rounded_weights(encoder, dtype) if dtype else contextlib.nullcontext(),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
