"""Training with the real Lightning module and trainer, on the CPU or on the pretend device."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from trainer.batch import Batch
from trainer.data.module import PairData
from trainer.data.retrieval_set import RetrievalSet
from trainer.modules.retriever import Retriever
from trainer.runtime.progress import TrainingProgress


class Records(Logger):
    """Keeps every record of the log."""

    name, version = "records", "0"

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        # The speed is never the same.
        self.records.append(
            {name: value for name, value in metrics.items() if name != "train/pairs_per_second"}
        )

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


class _AnyDevice(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


class _Data(lightning.LightningDataModule):
    transfer_batch_to_device = PairData.transfer_batch_to_device

    def __init__(self, batches: Sequence[Batch], validation: RetrievalSet) -> None:
        super().__init__()
        self.batches, self.validation = batches, validation

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader([self.validation], batch_size=None)  # type: ignore[arg-type]


class _AfterStep(lightning.Callback):
    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def on_train_batch_end(self, *_: Any) -> None:
        self.action()


def fit(
    module: Retriever,
    batches: Sequence[Batch],
    validation: RetrievalSet,
    device: str,
    after_step: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Trains one step per batch, then validates; returns the records of the log."""
    records = Records()
    lightning.Trainer(
        strategy=SingleDeviceStrategy(torch.device(device), accelerator=_AnyDevice()),
        max_steps=len(batches),
        max_epochs=-1,
        num_sanity_val_steps=0,
        gradient_clip_val=0.5,
        log_every_n_steps=1,
        logger=records,
        callbacks=[TrainingProgress(8, len(batches)), _AfterStep(after_step)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=_Data(batches, validation))
    return records.records
