"""Training batches for Lightning, computed from the global step, tokenised on a second thread."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from trainer.batch import Batch
from trainer.data.mined_negatives import Boundaries
from trainer.data.mixture import Mixture
from trainer.data.order import batch_samples, check_batch_divisible, own_part
from trainer.data.prefetch import prefetch
from trainer.data.random_negatives import RandomNegatives
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Row
from trainer.errors import BadText, TooManyBadRows

_log = logging.getLogger("nearfar.data")
RowTransform = Callable[[Row], Row]
"""Gives the row that a batch contains, e.g. with mined negatives."""


@runtime_checkable
class NegativeRefresher(Protocol):
    """Mines negatives during training."""

    boundaries: Boundaries

    def mine_before(self, steps: "Steps", step: int) -> RowTransform:
        """Returns the transform of rows from `step` up to the next boundary.

        It is called on all ranks between two steps, before any of these batches is made.
        """

    def without_mining(self, row: Row) -> Row:
        """Returns the row as it is before the first boundary."""


@dataclass(frozen=True)
class Steps:
    """The batches of one rank for the optimizer steps `first` up to `last`, over all epochs.

    The global batch of a step is the same for any number of ranks; a rank reads and tokenises its
    own part only. A second iteration gives the same batches.
    """

    rows: Sequence[Row]
    collate: Callable[[Sequence[Row]], Batch]
    seed: int
    batch_size: int
    first: int
    last: int
    mixture: Mixture | None = None
    """The data sets that `rows` consist of; None for a single one."""
    random_negatives: RandomNegatives | None = None
    """Draws the negatives of rows; None if rows keep their own."""
    refresher: NegativeRefresher | None = None
    """Mines negatives during training; None: no mining."""
    rank: int = 0
    ranks: int = 1
    max_bad_rows_ratio: float = 0.001
    bad_rows: set[str] = field(default_factory=set, compare=False)
    """Sources of the rows that this rank has set aside."""

    def __post_init__(self) -> None:
        check_batch_divisible(self.batch_size, self.ranks)

    def __len__(self) -> int:
        return self.last - self.first

    def samples(self, step: int) -> Int[np.ndarray, " sample"]:
        """Returns the numbers of the rows in the global batch of one step."""
        if self.mixture is None:
            return batch_samples(self.seed, step, len(self.rows), self.batch_size)
        return self.mixture.batch_samples(self.seed, step, self.batch_size)

    def batch(self, step: int, transform: RowTransform = lambda row: row) -> Batch:
        """Returns the part of this rank of the global batch of one step.

        A row with a text at which the tokenizer fails is set aside: the next row takes its place.
        """
        samples = self.samples(step)
        while True:
            try:
                return self.collate(self._own_rows(step, samples, transform))
            except BadText as error:
                samples = self._set_aside(error, samples, transform)

    def _own_rows(
        self, step: int, samples: Int[np.ndarray, " sample"], transform: RowTransform
    ) -> list[Row]:
        if self.random_negatives is None:
            own_samples = own_part(samples, self.rank, self.ranks)
            return [transform(self.rows[int(sample)]) for sample in own_samples]
        places = own_part(np.arange(len(samples)), self.rank, self.ranks)
        return [
            self.random_negatives.row_with_negatives(step, samples, int(place)) for place in places
        ]

    def _set_aside(
        self, error: BadText, samples: Int[np.ndarray, " sample"], transform: RowTransform
    ) -> Int[np.ndarray, " sample"]:
        """Returns the samples without the rows that contain the text of the error.

        Raises TooManyBadRows if the set-aside rows exceed the budget.
        """
        substitutes = samples.copy()
        for place, sample in enumerate(samples):
            row = transform(self.rows[int(sample)])
            if error.text not in (row.query, row.positive, *row.negatives):
                continue
            substitutes[place] = (sample + 1) % len(self.rows)
            if row.source not in self.bad_rows:
                _log.warning("%s: set aside: %s", row.source, error)
                self.bad_rows.add(row.source)
        if (substitutes == samples).all():
            raise error
        if len(self.bad_rows) > self.max_bad_rows_ratio * len(self.rows):
            raise TooManyBadRows(
                f"{len(self.bad_rows)} of {len(self.rows)} rows could not be used, and"
                f" data.max_bad_rows_ratio={self.max_bad_rows_ratio:g} allows"
                f" {int(self.max_bad_rows_ratio * len(self.rows))}. The latest: {error}"
            ) from error
        return substitutes

    def __iter__(self) -> Iterator[Batch]:
        if self.refresher is None:
            steps = range(self.first, self.last)
            yield from prefetch((self.batch(step) for step in steps), depth=4)
            return
        for span in self.refresher.boundaries.spans(self.first, self.last):
            # The previous batch has been trained on, so mining uses the current weights.
            transform = self.refresher.mine_before(self, span.start)
            yield from prefetch((self.batch(step, transform) for step in span), depth=4)


class PairData(LightningDataModule):
    """The training steps, and the retrieval set for validation."""

    def __init__(self, steps: Steps, validation: RetrievalSet) -> None:
        super().__init__()
        self.steps = steps
        self.validation = validation

    def train_dataloader(self) -> Steps:
        """Returns the part of this rank of every step.

        Raises BadRecipe if a batch cannot be divided equally among the ranks.
        """
        if self.trainer is None:
            return self.steps
        return replace(self.steps, rank=self.trainer.global_rank, ranks=self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[RetrievalSet]:
        """Returns a loader of one item, which is the whole validation set."""
        return DataLoader([self.validation], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Returns the same batch, still on the CPU.

        Micro-batches are selected and padded on the CPU, and each of them is moved to the device.
        """
        return batch
