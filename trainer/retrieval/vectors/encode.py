"""Texts to vectors, with next to no padding and the tokenizer running ahead of the model."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from trainer.batch import Texts
from trainer.collectives import own_rounds, ranks, sum_over_ranks
from trainer.errors import BadModel
from trainer.microbatches import micro_batches
from trainer.models.contract import Role
from trainer.strategies.devices import Precision

if TYPE_CHECKING:
    from trainer.models.dense import DenseEncoder
    from trainer.models.encoder import Encoder


_TEXTS_AT_ONCE = 16384
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def encode(
    encoder: "DenseEncoder",
    texts: Sequence[str],
    role: Role,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Float32[np.ndarray, "text dimension"]:
    """One float32 vector a text, in the order given.

    A text that occurs twice is encoded once. Texts are tokenised in slices, one slice ahead of the
    model; within a slice they go through the model in order of length, as many at once as stay
    within `micro_batch_tokens` padded tokens (null: 2 048 on a CPU, 65 536 on a GPU). The encoder
    is in inference mode meanwhile and left as it was found. Memory beyond the result is that of two
    slices.

    Raises BadModel when a vector is not finite.
    """
    places: dict[str, int] = {}
    inverse = [places.setdefault(text, len(places)) for text in texts]
    vectors = np.empty((len(places), encoder.dimensions), dtype=np.float32)
    device = torch.device(encoder.device)
    budget = micro_batch_tokens or default_micro_batch_tokens(device)
    with inference(encoder, device, precision):
        start = 0
        for slice_of_texts in tokenized(encoder, list(places), role, _TEXTS_AT_ONCE):
            stop = start + len(slice_of_texts)
            vectors[start:stop] = (
                _encode_slice(encoder, slice_of_texts, budget, device).cpu().numpy()
            )
            start = stop
    check_finite(vectors, precision)
    return vectors if len(places) == len(inverse) else vectors[inverse]


def encode_for_search(
    encoder: "DenseEncoder",
    texts: Sequence[str],
    role: Role,
    micro_batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> Float32[np.ndarray, "text dimension"]:
    """As `encode`, in the form whose dot products are the model's similarity: of length 1 where the
    contract compares by cosine.
    """
    vectors = encode(encoder, texts, role, micro_batch_tokens, precision)
    if encoder.contract.similarity == "cosine" and not encoder.contract.normalize:
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    return vectors


def _encode_slice(
    encoder: "DenseEncoder", texts: Texts, budget: int, device: torch.device
) -> Float[Tensor, "text dimension"]:
    vectors = torch.zeros(len(texts), encoder.dimensions, device=device)
    for rows, encoded in shared_out(encoder, texts, budget, device):
        if encoded.ndim != 2:
            raise BadModel(
                "the model gives one vector a token, where one a text is asked for; give a model of"
                " one vector a text"
            )
        vectors[rows.to(device)] = encoded.float()
    return sum_over_ranks(vectors)


def shared_out(
    encoder: "Encoder", texts: Texts, budget: int, device: torch.device
) -> Iterator[tuple[Int[Tensor, " row"], Float[Tensor, "row ..."]]]:
    """This rank's micro-batches: rows of `texts` and their embeddings. Together the ranks give each
    text once.

    All ranks run equally many, since sharded weights are gathered by all together; the surplus is
    not handed out.
    """
    cuts = micro_batches(texts.lengths, budget)
    for number in own_rounds(len(cuts)):
        rows = cuts[number % len(cuts)]
        encoded = encoder(texts.select(rows).to(device))
        if number < len(cuts):
            yield rows, encoded


def tokenized(
    encoder: "Encoder", texts: list[str], role: Role, texts_at_once: int
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


def check_finite(vectors: Float[np.ndarray, "..."], precision: Precision) -> None:
    """Raises BadModel when a number is infinite or undefined."""
    if not np.isfinite(vectors).all():
        raise BadModel(
            "the model gives vectors with infinite or undefined numbers; its weights are damaged"
            f" or overflow in {precision}: try precision fp32, or train again with a lower learning"
            " rate"
        )


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context in which a model computes in `precision`."""
    return torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST)


@contextlib.contextmanager
def inference(encoder: "Encoder", device: torch.device, precision: Precision) -> Iterator[None]:
    """Within it the encoder computes without gradient and dropout; afterwards it is as it was."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    # What FSDP2 first makes in inference mode it could not write to in training; a single process
    # has nothing of the kind.
    without_gradient = torch.inference_mode() if ranks() == 1 else torch.no_grad()
    try:
        with without_gradient, autocast(device, precision):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
