"""What all stages share: device and sizes, clocks, and models with random weights."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainer.batch import Batch, Texts
from trainer.strategies.devices import Precision

Case = Callable[[], Any]
"""One measurement. It returns a number, a text, or a dictionary of them."""
Size = TypeVar("Size")


@dataclass(frozen=True)
class Setting:
    device: torch.device
    small: bool
    folder: Path
    """A temporary folder."""
    results: Mapping[str, Mapping[str, Any]]
    """Those of all stages so far."""

    def size(self, full: Size, small: Size) -> Size:
        return small if self.small else full

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def is_pretend(self) -> bool:
        return self.device.type not in ("cuda", "cpu")

    @property
    def precision(self) -> Precision:
        """The pretend device has no autocast."""
        return "fp32" if self.is_pretend else "bf16"

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], Any], repeats: int = 3, warm_up: int = 1) -> float:
        """The median time of an action."""
        for _ in range(warm_up):
            action()
        times = []
        for _ in range(self.size(repeats, 1)):
            self.wait()
            start = time.perf_counter()
            action()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def seconds_and_peak(self, action: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
        """The time of the first call, the median of later ones, and the peak of the GPU."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        action()
        self.wait()
        first = time.perf_counter() - start
        seconds = self.seconds(action, repeats, warm_up=0)
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.is_cuda else 0.0
        return {"seconds": seconds, "first seconds": first, "peak GB": peak}

    def random(self, *shape: int, seed: int = 0, unit: bool = True) -> Tensor:
        """Random vectors, of length 1 if `unit`."""
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(shape, generator=generator)
        return (torch.nn.functional.normalize(values, dim=-1) if unit else values).to(self.device)

    @cached_property
    def toy(self) -> Path:
        """The folder of a tiny BERT."""
        from toy_models import make_toy

        make_toy("bert", self.folder / "toy")
        return self.folder / "toy"

    @cached_property
    def base(self) -> Path:
        """The folder of a BERT-base with random weights."""
        from toy_models import word_pieces
        from transformers import BertConfig, BertModel

        small = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        }
        torch.manual_seed(0)
        BertModel(BertConfig(**self.size({}, small))).save_pretrained(self.folder / "base")
        tokenizer = word_pieces()
        tokenizer.model_max_length = 512
        tokenizer.save_pretrained(self.folder / "base")
        return self.folder / "base"


def random_texts(lengths: Sequence[int], first_identity: int = 0, vocabulary: int = 30000) -> Texts:
    """Distinct texts of these lengths, of random tokens."""
    generator = torch.Generator().manual_seed(first_identity)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens = torch.randint(200, vocabulary, (int(offsets[-1]),), generator=generator)
    return Texts(tokens, offsets, torch.arange(len(lengths)) + first_identity)


def ragged_lengths(count: int, longest: int) -> list[int]:
    """Lengths with a long tail: of short documents, 53 tokens in the mean and up to 256."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randn(count, generator=generator).mul(0.65).add(3.76).exp()
    return [int(length) for length in lengths.clamp(4, min(longest, 256))]


def random_batch(query_lengths: Sequence[int], document_lengths: Sequence[int]) -> Batch:
    """One document per query; no text occurs twice."""
    documents = random_texts(document_lengths, 10**9)
    return Batch(random_texts(query_lengths), documents, documents.identities[:, None])
