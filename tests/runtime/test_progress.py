"""The progress line, printed by a real training loop."""

import io
import re
import time

import pytest
import pytorch_lightning as lightning
import torch

from trainer.runtime import progress
from trainer.runtime.progress import ProgressLine


class Toy(lightning.LightningModule):
    """Slow validation, quick steps."""

    def __init__(
        self, scores: list[float], validation_seconds: float = 0.0, fail_at: int | None = None
    ) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.scores, self.validation_seconds, self.fail_at = (
            iter(scores),
            validation_seconds,
            fail_at,
        )

    def training_step(self, batch, number):
        if number == self.fail_at:
            raise ValueError("planted")
        time.sleep(0.01)
        self.log_dict({"train/loss": 0.3125, "train/learning_rate": 1e-3})
        return self.layer(batch).mean()

    def validation_step(self, batch, number):
        time.sleep(self.validation_seconds)

    def on_validation_epoch_end(self):
        self.log("validation/ndcg@10", next(self.scores))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def train(module: Toy, line: ProgressLine) -> str:
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[line],
        val_check_interval=10,
        limit_val_batches=1,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        module,
        torch.utils.data.DataLoader(torch.ones(20, 1)),
        torch.utils.data.DataLoader(torch.ones(1, 1)),
    )
    return line.stream.getvalue()


def test_output_without_a_terminal_has_plain_lines():
    lines = train(Toy([0.5, 0.4]), ProgressLine(64, 20, io.StringIO())).splitlines()
    assert re.fullmatch(
        r"step 1/20  loss 0\.312  rate 1\.0e-03  [\d.]+ pairs/s  \d+:\d\d left", lines[0]
    )
    assert lines[1] == "validation at step 10: nDCG@10 0.500 (best so far)"
    assert re.fullmatch(
        r"step 20/20  loss 0\.312  rate 1\.0e-03  [\d.]+ pairs/s  0:00 left", lines[2]
    )
    assert lines[3] == "validation at step 20: nDCG@10 0.400 (best 0.500)"
    assert len(lines) == 4


def test_terminal_shows_one_rewritten_line(monkeypatch):
    monkeypatch.setattr(progress, "_REWRITE_SECONDS", 0.0)
    written = train(Toy([0.5, 0.6]), ProgressLine(64, 20, Terminal()))
    assert written.count("\n") == 2, "one line a validation, the last of them the end"
    assert written.count("\r\x1b[2K") >= 18
    assert written.endswith("validation at step 20: nDCG@10 0.600 (best so far)\n")


def test_rate_excludes_validation():
    line = ProgressLine(64, 20, io.StringIO())
    train(Toy([0.5, 0.6], validation_seconds=2.0), line)
    assert line.pairs_per_second > 64 * 20 / 2.0, (
        "two seconds of validation were counted as training"
    )
    assert line.pairs_per_second < 64 / 0.01


def test_error_starts_on_its_own_line():
    line = ProgressLine(64, 20, Terminal())
    with pytest.raises(ValueError, match="planted"):
        train(Toy([0.5, 0.6], fail_at=3), line)
    assert line.stream.getvalue().endswith("\n")
