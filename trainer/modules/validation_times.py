"""The steps after which a run validates."""

from dataclasses import dataclass

import pytorch_lightning as lightning


@dataclass
class ValidationTimes(lightning.Callback):
    """Validates after each `every_steps` steps, and after the last step.

    There are `early_count` validations more before the first of these, at equal distances, so that
    weights that were best early are kept too.

    >>> times = ValidationTimes(every_steps=10, last_step=24, early_count=3)
    >>> [step for step in range(1, 25) if times.is_due(step)]
    [3, 5, 8, 10, 20, 24]
    >>> times.count
    6
    """

    every_steps: int
    last_step: int
    early_count: int = 0

    @property
    def early_steps(self) -> list[int]:
        """The steps of the early validations."""
        parts = self.early_count + 1
        steps = {-(-self.every_steps * part // parts) for part in range(1, parts)}
        return sorted(steps - {self.every_steps})

    def is_due(self, step: int) -> bool:
        """Returns whether the run validates after `step` steps."""
        return step in (self.last_step, *self.early_steps) or step % self.every_steps == 0

    @property
    def count(self) -> int:
        """The number of validations of the whole run."""
        return len(self.early_steps) - (-self.last_step // self.every_steps)

    @property
    def text(self) -> str:
        """The times in words."""
        early_text = f", and after {', '.join(f'{step:,}' for step in self.early_steps)}"
        return f"every {self.every_steps:,} steps{early_text if self.early_steps else ''}"

    def on_train_batch_end(self, lightning_trainer: lightning.Trainer, *_: object) -> None:
        """Tells Lightning, which asks after this call, whether to validate now.

        It divides the number of the batch by `val_check_batch`. After the last step it validates in
        any case (`KeepBest`).
        """
        is_due = self.is_due(lightning_trainer.global_step)
        lightning_trainer.val_check_batch = 1 if is_due else float("inf")
