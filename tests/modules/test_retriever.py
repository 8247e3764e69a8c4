"""The Lightning module: one step is the plain step written out, and nothing that is not finite
reaches a weight.
"""

from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as lightning
import torch
from torch import nn
from twins import KNOWN, ROWS, SmallEncoder, batch_of, full_batch, mask_of

from trainer.microbatches import MicroBatching
from trainer.modules.optimizer import OptimizerSettings, adamw
from trainer.modules.retriever import NonFiniteStep, Retriever, Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.scores import dot

OBJECTIVE = Contrastive(dot)
SETTINGS = OptimizerSettings(0.01, 0.01, 0.01, 0.05, "cosine", warmup_steps=2, total_steps=6)


class Spy(lightning.loggers.Logger):
    """Keeps every record."""

    name, version = "spy", "0"

    def __init__(self):
        super().__init__()
        self.records = []

    def log_metrics(self, metrics, step=None):
        self.records.append(dict(metrics))

    def log_hyperparams(self, *_, **__):
        pass


def module_of(
    encoder,
    encode=None,
    objective=OBJECTIVE,
    is_learned=True,
    validate=lambda _: {"ndcg@10": 0.5},
):
    return Retriever(
        encoder,
        encode or MicroBatching(encoder, 24),
        objective,
        Temperature(0.1, is_learned),
        SETTINGS,
        validate,
    )


def trainer_of(steps, **settings):
    spy = Spy()
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": spy,
        "log_every_n_steps": 1,
    }
    return (
        lightning.Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, **quiet, **settings),
        spy,
    )


def batches():
    """Four that differ."""
    return [
        batch_of(ROWS[start:] + ROWS[:start], KNOWN[start:] + KNOWN[:start]) for start in range(3)
    ] + [batch_of(ROWS[:4], KNOWN[:4])]


def fit(trainer, module, data):
    trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(data, batch_size=None))


def by_hand(encoder, temperature, data, clip):
    """The training loop written out."""
    built = adamw(encoder, temperature, SETTINGS)
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    records = []
    for batch in data:
        rate = optimizer.param_groups[0]["lr"]
        loss = OBJECTIVE(batch, encoder, temperature()).loss
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(
            [*encoder.parameters(), *temperature.parameters()], clip or torch.inf
        )
        optimizer.step()
        schedule.step()
        records.append((loss.item(), norm.item(), rate))
    return records


@pytest.mark.parametrize("clip", [None, 0.5])
def test_training_equals_an_explicit_loop(clip):
    encoder = SmallEncoder()
    module = module_of(encoder)
    trainer, spy = trainer_of(4, gradient_clip_val=clip)
    fit(trainer, module, batches())
    twin, temperature = SmallEncoder(), Temperature(0.1, is_learned=True)
    wanted = by_hand(twin, temperature, batches(), clip)
    found = [
        (record["train/loss"], record["train/gradient_norm"], record["train/learning_rate"])
        for record in spy.records
    ]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-5, atol=1e-7)
    assert max(norm for _, norm, _ in wanted) > 0.5, "clipping has something to do"
    for one, other in zip(encoder.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(module.temperature.log, temperature.log)
    assert module.temperature.log.item() != torch.tensor(0.1).log().item(), (
        "the temperature was learned"
    )


def test_norms_of_layer_groups_make_up_the_gradient_norm():
    trainer, spy = trainer_of(1)
    fit(trainer, module_of(SmallEncoder()), [full_batch()])
    record = spy.records[0]
    norms = [value for name, value in record.items() if name.startswith("train/gradient_norm_")]
    assert len(norms) > 1
    assert sum(norm**2 for norm in norms) ** 0.5 == pytest.approx(record["train/gradient_norm"])


def test_training_metrics_are_logged():
    trainer, spy = trainer_of(1)
    fit(trainer, module_of(SmallEncoder()), [full_batch()])
    record = spy.records[0]
    assert record["train/masked_false_negatives"] == int(mask_of(full_batch()).sum()) > 0
    assert record["train/temperature"] == pytest.approx(0.1)
    assert record["train/learning_rate"] == pytest.approx(
        0.005
    )  # the first of two steps of warm-up
    assert {"train/loss", "train/gradient_norm"} <= set(record)


def test_validation_is_logged_under_its_names():
    trainer, _ = trainer_of(1)
    seen = []
    module = module_of(
        SmallEncoder(),
        validate=lambda held_out: seen.append(held_out) or {"ndcg@10": 0.25, "mrr@10": 0.75},
    )
    found = trainer.validate(
        module, dataloaders=torch.utils.data.DataLoader(["the set"], batch_size=None), verbose=False
    )
    assert seen == ["the set"]
    assert found == [{"validation/ndcg@10": 0.25, "validation/mrr@10": 0.75}]


class TestTemperature:
    def test_temperature_has_a_dimension_that_can_be_sharded(self):
        assert Temperature(0.05, is_learned=True).log.shape == (1,)

    @pytest.mark.parametrize("value", [0.01, 0.05, 1.0, 7.0])
    def test_temperature_starts_at_its_initial_value(self, value):
        assert Temperature(value, is_learned=False)().item() == pytest.approx(value, rel=1e-6)


class Poison(torch.autograd.Function):
    """Changes nothing on the way out; on the way back an infinity. A loss can be finite while its
    gradient is not.
    """

    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, torch.inf)


class TestNonFinite:
    @staticmethod
    def bad_from(step, poison):
        calls = []

        def objective(batch, encode, temperature):
            calls.append(batch)
            found = OBJECTIVE(batch, encode, temperature)
            return replace(found, loss=poison(found.loss)) if len(calls) > step else found

        return objective

    @pytest.mark.parametrize(
        ("poison", "loss", "norm"),
        [
            (lambda loss: loss * float("nan"), "nan", "nan"),
            (lambda loss: loss + float("inf"), "inf", None),
            (Poison.apply, None, "inf"),
        ],
        ids=["NaN in the loss", "infinite loss, finite gradient", "infinity in the gradient alone"],
    )
    @pytest.mark.parametrize("clip", [None, 1.0])
    def test_non_finite_step_stops_before_the_update_and_names_the_rows(
        self, poison, loss, norm, clip
    ):
        encoder, weights = SmallEncoder(), []
        spoil = self.bad_from(2, poison)

        def remembering(batch, encode, temperature):
            weights.append([parameter.detach().clone() for parameter in encoder.parameters()])
            return spoil(batch, encode, temperature)

        trainer, spy = trainer_of(4, gradient_clip_val=clip)
        with pytest.raises(
            NonFiniteStep, match=r"step 3: the loss is .* no weight was changed.*non_finite\.json"
        ) as raised:
            fit(trainer, module_of(encoder, objective=remembering), batches())
        assert raised.value.exit_code == 86
        assert raised.value.record["step"] == 3
        assert raised.value.record["rows"] == [f"rows:{row}" for row in range(1, 7)]
        assert loss is None or raised.value.record["loss"] == loss
        assert norm is None or raised.value.record["gradient_norm"] in (norm, "nan")
        for now, before in zip(encoder.parameters(), weights[2], strict=True):
            assert torch.equal(now, before)
            assert now.isfinite().all()
        assert any(
            not torch.equal(now, first)
            for now, first in zip(encoder.parameters(), weights[0], strict=True)
        ), "the steps before took place"
        assert all(
            torch.isfinite(torch.tensor(record["train/gradient_norm"]))
            for record in spy.records
            if "train/gradient_norm" in record
        )

    def test_finite_run_is_not_stopped(self):
        trainer, spy = trainer_of(4)
        fit(
            trainer,
            module_of(SmallEncoder(), objective=self.bad_from(99, partial(torch.mul, 2))),
            batches(),
        )
        assert trainer.global_step == 4
        assert len(spy.records) == 4
