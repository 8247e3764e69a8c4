"""Logs what a step costs: tokens, padding, memory, and the share of the machine's matrix peak."""

from dataclasses import astuple, dataclass
from typing import Any

import psutil
import pytorch_lightning as lightning
import torch
from torch import nn

from trainer.batch import Batch, Texts
from trainer.collectives import SUM, all_reduce_integers, all_rows
from trainer.microbatches import token_count
from trainer.runtime.progress import TrainingProgress


@dataclass(frozen=True)
class TokenCost:
    """The operations of an encoder's matrix products per token, forward and backward.

    A weight costs two operations per token forward, two for the gradient of its input, and two more
    for its own gradient if it is trained. Attention costs `per_squared_token` times the square of a
    text's length. What is computed twice to save memory counts once.
    """

    per_token: int
    per_squared_token: int

    @classmethod
    def of(cls, encoder: nn.Module) -> "TokenCost":
        """Returns the cost of an encoder, from its linear layers and its configuration; zero if it
        is unknown.
        """
        settings = getattr(getattr(encoder, "backbone", None), "config", None)
        if hasattr(settings, "vision_config"):
            return cls(0, 0)  # unknown: a token goes through one of the two towers
        per_token = 0
        for module in encoder.modules():
            inputs, outputs = (getattr(module, f"{side}_features", None) for side in ("in", "out"))
            weight = dict(module.named_parameters(recurse=False)).get("weight")
            if weight is not None and isinstance(inputs, int) and outputs:
                per_token += inputs * outputs * (6 if weight.requires_grad else 4)
        layers, width = (
            getattr(settings, name, None) or 0 for name in ("num_hidden_layers", "hidden_size")
        )
        return cls(per_token, 12 * layers * width)


@dataclass(frozen=True)
class StepCounts:
    """Counts of a step, over all ranks."""

    tokens: int
    """Tokens of all texts of the batch: the same on any number of ranks."""
    encoded_tokens: int
    """Tokens that were encoded: a text that occurs twice on a rank is encoded once."""
    positions: int
    """Encoded tokens and padding."""
    squared_lengths: int
    """The sum of the squared lengths of the encoded texts."""

    @classmethod
    def of(cls, batch: Batch, is_padded: bool, encodes_queries: bool) -> "StepCounts":
        """Returns the counts of the parts of a batch on all ranks."""
        texts = (batch.queries, batch.documents) if encodes_queries else (batch.documents,)
        parts = [
            part
            for division in batch.divisions
            if any(division.texts is role for role in texts)
            for part in division.micro_batches
        ]
        return cls(
            *all_reduce_integers(
                [
                    sum(len(role.tokens) for role in texts),
                    sum(len(part.tokens) for part in parts),
                    sum(token_count(part.lengths, is_padded) for part in parts),
                    sum(map(_squared_lengths, parts)),
                ],
                SUM,
            )
        )


class Throughput(lightning.Callback):
    """Logs tokens per second and the rest after each step. It comes after `progress`, whose rate it
    uses.

    `peak` is the operations per second of this rank's matrix products (`matrix_peak`).
    """

    def __init__(
        self,
        progress: TrainingProgress,
        cost: TokenCost,
        peak: float,
        encodes_queries: bool,
        is_padded: bool,
    ) -> None:
        self.progress, self.cost, self.peak = progress, cost, peak
        self.encodes_queries, self.is_padded = encodes_queries, is_padded
        self._sums = [0, 0, 0, 0]
        self._pairs = 0
        self._process = psutil.Process()

    def on_train_batch_end(
        self,
        lightning_trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Logs the figures of the step. None of them is read from the device."""
        counts = StepCounts.of(batch, self.is_padded, self.encodes_queries)
        self._sums = [old + new for old, new in zip(self._sums, astuple(counts), strict=True)]
        self._pairs += self.progress.batch_size
        rate = self.progress.pairs_per_second / self._pairs
        tokens, encoded_tokens, _, squared_lengths = self._sums
        operations = (
            self.cost.per_token * encoded_tokens + self.cost.per_squared_token * squared_lengths
        )
        figures = {
            "tokens": counts.tokens,
            "tokens_per_second": rate * tokens,
            "memory_gigabytes": self._memory_bytes(pl_module.device) / 1e9,
        }
        if counts.positions:
            figures["padding_ratio"] = 1 - counts.encoded_tokens / counts.positions
        if self.cost.per_token:
            figures["matrix_peak_ratio"] = rate * operations / all_rows(1) / self.peak
        # As tensors on the CPU, which Lightning leaves there.
        pl_module.log_dict(
            {f"train/{name}": torch.tensor(float(value)) for name, value in figures.items()}
        )

    def _memory_bytes(self, device: torch.device) -> int:
        """Returns the most memory that this rank has used on its GPU, or its main memory now."""
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return int(self._process.memory_info().rss)


def _squared_lengths(texts: Texts) -> int:
    return int(texts.lengths.square().sum())
