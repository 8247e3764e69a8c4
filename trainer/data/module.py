"""Training batches for Lightning: read off the order of samples by global step, tokenised on a
thread of their own.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from trainer.batch import Batch
from trainer.data.mined_negatives import Boundaries
from trainer.data.mixture import Mixture
from trainer.data.order import batch_samples, check_batch_divisible, own_part
from trainer.data.random_negatives import RandomNegatives
from trainer.data.retrieval_set import RetrievalSet
from trainer.data.rows import Row

Item = TypeVar("Item")
Given = Callable[[Row], Row]
"""A row as it is in a batch."""


@runtime_checkable
class Refreshed(Protocol):
    """What mines negatives anew while training."""

    boundaries: Boundaries

    def ready(self, steps: "Steps", step: int) -> Given:
        """What rows get from `step` up to the next boundary. Called on all ranks between two steps,
        before any of these batches is made.
        """


@dataclass(frozen=True)
class Steps:
    """One rank's parts of the batches of optimizer steps `first` up to `last`, whatever epoch they
    fall in. Iterating twice gives the same.

    The global batch of a step is the same for any number of ranks; a rank reads and tokenises its
    own part alone.
    """

    rows: Sequence[Row]
    collate: Callable[[Sequence[Row]], Batch]
    seed: int
    batch_size: int
    first: int
    last: int
    mixture: Mixture | None = None
    """How `rows` are made up of several data sets; None: they are one."""
    random_negatives: RandomNegatives | None = None
    """Draws the negatives of rows; None: rows keep their own."""
    refreshed: Refreshed | None = None
    """Mines negatives anew; None: nothing does."""
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        check_batch_divisible(self.batch_size, self.ranks)

    def __len__(self) -> int:
        return self.last - self.first

    def samples(self, step: int) -> Int[np.ndarray, " sample"]:
        """The rows of the global batch of one step, by number."""
        if self.mixture is None:
            return batch_samples(self.seed, step, len(self.rows), self.batch_size)
        return self.mixture.batch_samples(self.seed, step, self.batch_size)

    def batch(self, step: int, given: Given = lambda row: row) -> Batch:
        """This rank's part of the global batch of one step."""
        samples = self.samples(step)
        if self.random_negatives is None:
            return self.collate(
                [
                    given(self.rows[int(sample)])
                    for sample in own_part(samples, self.rank, self.ranks)
                ]
            )
        places = own_part(np.arange(len(samples)), self.rank, self.ranks)
        return self.collate(
            [self.random_negatives.given(step, samples, int(place)) for place in places]
        )

    def __iter__(self) -> Iterator[Batch]:
        if self.refreshed is None:
            yield from ahead((self.batch(step) for step in range(self.first, self.last)), depth=4)
            return
        for span in self.refreshed.boundaries.spans(self.first, self.last):
            given = self.refreshed.ready(
                self, span.start
            )  # with the weights as they are now: the batch before has been trained on
            yield from ahead((self.batch(step, given) for step in span), depth=4)


def ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """`items`, made up to `depth` ahead on another thread; an error there is raised here, in its
    turn.

    >>> list(ahead(range(3), depth=2))
    [0, 1, 2]
    """
    ready: queue.Queue[tuple[str, object]] = queue.Queue(depth)
    left = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not left.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            put("error", error)

    threading.Thread(target=work, name="tokenizer", daemon=True).start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if isinstance(value, BaseException) and kind == "error":
                raise value
            yield value  # type: ignore[misc]
    finally:
        left.set()


class PairData(LightningDataModule):
    """Training steps and the held-out queries they are validated on."""

    def __init__(self, steps: Steps, validation: RetrievalSet) -> None:
        super().__init__()
        self.steps = steps
        self.validation = validation

    def train_dataloader(self) -> Steps:
        """All steps of the run, of each the part of this rank. Raises BadRecipe when a batch has no
        equal parts for all ranks.
        """
        if self.trainer is None:
            return self.steps
        return replace(self.steps, rank=self.trainer.global_rank, ranks=self.trainer.world_size)

    def val_dataloader(self) -> DataLoader[RetrievalSet]:
        """One loader of one item: the whole validation set."""
        return DataLoader([self.validation], batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """The batch as it is: ragged texts are cut and padded on the CPU, and each micro-batch
        moves by itself.
        """
        return batch
