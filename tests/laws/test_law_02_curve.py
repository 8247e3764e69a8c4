"""Law 2 over time: ten optimizer steps on 1, 2 and 4 ranks have the same loss curve, from the same
samples in the same order.

AdamW divides a gradient by its own size, so where a gradient is nothing but rounding, a weight
still moves by the whole rate: in float32 rounding grows from step to step, the faster the higher
the rate. In float64 nothing is left of that.
"""

from functools import partial

import pytest
import pytorch_lightning as lightning
import torch
from matrix import ROWS, batch_of, encoder_of
from ranks import on_ranks

from trainer.collectives import gather_texts, ranks
from trainer.data.collate import collate
from trainer.data.module import PairData, Steps
from trainer.data.retrieval_set import retrieval_set_from_rows
from trainer.data.rows import Row, Rows, known_positives
from trainer.microbatches import MicroBatching
from trainer.modules.optimizer import OptimizerSettings
from trainer.modules.retriever import Retriever, Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.scores import dot
from trainer.strategies.lightning import lightning_strategy
from trainer.strategies.machine.plan import SINGLE, Plan

STEPS, BATCH = 10, 8


class Seen(Retriever):
    """Remembers the loss and the samples of every step, of all ranks."""

    def training_step(self, batch, number):
        loss = super().training_step(batch, number)
        self.seen.append((loss.item(), gather_texts(batch.sample_ids)))
        return loss


def curve(folder, tuning, dtype, rate):
    rows = Rows.of(
        [
            Row(f"{row[0]} {copy}", row[1], tuple(row[2:]), source=f"rows:{8 * copy + number}")
            for copy in range(3)
            for number, row in enumerate(ROWS)
        ]
    )
    encoder = encoder_of(folder, "dot", tuning, dtype)
    make = partial(
        collate,
        tokenize=encoder.tokenize,
        known_positives=known_positives(rows),
        negatives_per_query=2,
    )
    settings = OptimizerSettings(
        rate, rate, rate, 0.01, "cosine", warmup_steps=2, total_steps=STEPS
    )
    module = Seen(
        encoder,
        MicroBatching(encoder, 48, 100),
        Contrastive(dot, symmetric=True),
        Temperature(0.1, is_learned=True).to(dtype),
        settings,
        dict,
    )
    module.seen = []
    plan = Plan("ddp", ranks(), 1, ranks(), None, "cpu") if ranks() > 1 else SINGLE
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=ranks(),
        strategy=lightning_strategy(plan, "cpu"),
        use_distributed_sampler=False,
        max_steps=STEPS,
        max_epochs=-1,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        module,
        datamodule=PairData(
            Steps(rows, make, seed=3, batch_size=BATCH, first=0, last=STEPS),
            retrieval_set_from_rows(list(rows)[:2], "validation"),
        ),
    )
    return module.seen


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    ("dtype", "rate", "tolerance"),
    [(torch.float64, 3e-3, 1e-9), (torch.float32, 5e-4, 1e-5)],
    ids=["float64", "float32"],
)
def test_curve_and_samples_are_the_same_on_any_number_of_ranks(
    toy_folder, tuning, dtype, rate, tolerance
):
    (alone,) = on_ranks(1, curve, toy_folder("bert"), tuning, dtype, rate)
    losses, samples = zip(*alone, strict=True)
    assert len(losses) == STEPS
    assert losses[-1] < 0.99 * losses[0], "something is learned"
    assert len({sample for step in samples for sample in step}) > 2 * BATCH
    for count in (2, 4):
        for of_rank in on_ranks(count, curve, toy_folder("bert"), tuning, dtype, rate):
            assert [step for _, step in of_rank] == list(samples)
            assert [loss for loss, _ in of_rank] == pytest.approx(losses, rel=tolerance)


def test_other_order_of_samples_is_caught(toy_folder):
    """The curve tells batches apart: two of the same rows, differently composed, have different
    losses.
    """
    encoder = encoder_of(toy_folder("bert"), "dot", "full")
    found = [
        float(Contrastive(dot)(batch_of(encoder, rank, 2), encoder, 0.1).loss) for rank in range(2)
    ]
    assert abs(found[0] - found[1]) > 1e-3
