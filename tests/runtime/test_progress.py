"""Phases and rate of a real training loop."""

import time

import pytest
import pytorch_lightning as lightning
import torch

from trainer.progress import listening, phase
from trainer.runtime.progress import TrainingProgress


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


def train(module: Toy, callback: TrainingProgress) -> None:
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        val_check_interval=10,
        limit_val_batches=1,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        module,
        torch.utils.data.DataLoader(torch.ones(20, 1)),
        torch.utils.data.DataLoader(torch.ones(1, 1)),
    )


class Listener:
    """Writes down what the phases were when they ended."""

    def __init__(self):
        self.ended = []

    def begin(self, phase):
        pass

    def end(self, phase):
        self.ended.append((phase.name, phase.position, phase.total, phase.note))

    def expect(self, phases):
        pass


def test_steps_and_validations_are_phases_and_scores_are_printed(capsys):
    listener = Listener()
    with listening(listener):
        train(Toy([0.5, 0.4]), TrainingProgress(64, 20))
    assert listener.ended == [
        ("validation", 0, None, ""),
        ("validation", 0, None, ""),
        ("training", 20, 20, "loss 0.312  learning rate 1.0e-03"),
    ]
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "validation at step 10: nDCG@10 0.500 (best so far)",
        "validation at step 20: nDCG@10 0.400 (best 0.500)",
    ]


def test_score_before_training_is_the_one_to_beat(capsys):
    train(Toy([0.5, 0.7]), TrainingProgress(64, 20, best=0.6))
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "validation at step 10: nDCG@10 0.500 (best 0.600)",
        "validation at step 20: nDCG@10 0.700 (best so far)",
    ]


def test_rate_leaves_validation_out():
    callback = TrainingProgress(64, 20)
    train(Toy([0.5, 0.6], validation_seconds=2.0), callback)
    assert callback.pairs_per_second > 64 * 20 / 2.0, (
        "two seconds of validation were counted as training"
    )
    assert callback.pairs_per_second < 64 / 0.01


def test_error_ends_all_phases():
    listener = Listener()
    with listening(listener), pytest.raises(ValueError, match="planted"):
        train(Toy([0.5, 0.6], fail_at=3), TrainingProgress(64, 20))
    assert [name for name, *_ in listener.ended] == ["training"]
    with phase("next") as following:
        assert following.parent is None
