"""A short training run that mines negatives repeatedly; it can be stopped, continued and divided
among ranks.
"""

import hashlib
from functools import partial

import pytorch_lightning as lightning
import torch
from lightning_step import trainer_of
from matrix import SCORES, encoder_of
from mining_toys import generate_pairs

from trainer.collectives import on_first_rank, ranks
from trainer.data.collate import collate
from trainer.data.mined_negatives import Boundaries
from trainer.data.module import PairData, Steps
from trainer.data.retrieval_set import retrieval_set_from_rows
from trainer.data.rows import Row, Rows, known_positives
from trainer.microbatches import MicroBatching
from trainer.mining.choose import MiningRules
from trainer.mining.refresh import Refresh
from trainer.mining.task import corpus_texts, read_task, write_task
from trainer.modules.optimizer import OptimizerSettings
from trainer.modules.retriever import Retriever, Temperature
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.exclusions import RepeatedPositives
from trainer.runtime.log import JsonlLogger
from trainer.strategies.weights import full_weights

BATCH, EVERY_STEPS, STEPS, ROW_NEGATIVES = 8, 3, 8, 1
AT = Boundaries(0, EVERY_STEPS)
OPTIONS = MiningRules(negatives=3, depth=30, skip_top=1, percent_of_positive=0.0, margin=0.0)
PAIRS, FURTHER_DOCUMENTS = generate_pairs(seed=4, pairs=40)
ROWS = Rows.of(
    Row(row.query, row.positive, row.negatives or ("no such thing",), source=f"rows:{number}")
    for number, row in enumerate(PAIRS)
)


class RecordingRefresh(Refresh):
    """Records all weights before each span of steps."""

    def mine_before(self, steps, step):
        self.weights = getattr(self, "weights", {}) | {
            step: full_weights(self._trainer.lightning_module, trained_only=False)
        }
        return super().mine_before(steps, step)


class RecordingRetriever(Retriever):
    """Records the loss and the texts of each step."""

    def training_step(self, batch, number):
        loss = super().training_step(batch, number)
        self.seen.append((loss.item(), batch.documents.identities.tolist()))
        return loss


class CheckpointCallback(lightning.Callback):
    """Loads a checkpoint at the start, and makes one at the end."""

    def __init__(self, refresh, checkpoint):
        self.refresh, self.checkpoint = refresh, checkpoint

    def on_train_start(self, trainer, module):
        if self.checkpoint:
            module.load_state_dict(self.checkpoint["weights"])
            trainer.optimizers[0].load_state_dict(self.checkpoint["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.checkpoint["schedule"])
            self.refresh.load_state_dict(self.checkpoint["refresh"])

    def on_train_end(self, trainer, module):
        if ranks() == 1:
            self.final_state = {
                "weights": module.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
                "refresh": self.refresh.state_dict(),
            }


def train(
    folder,
    backbone,
    first=0,
    stop=STEPS,
    checkpoint=None,
    kind="ddp",
    score="dot",
    micro=48,
    dtype=torch.float64,
    rate=1e-3,
    boundaries=AT,
    options=OPTIONS,
    extra=(),
    precision="fp32",
):
    """Steps `first` up to `stop` of `STEPS`: (losses, texts of each step, final weights,
    checkpoint, weights before each mining).
    """
    on_first_rank(
        lambda: (
            (folder / "task").mkdir(parents=True, exist_ok=True),
            write_task(
                folder / "task", ROWS, [*corpus_texts([], ROWS, None, 0.0), *FURTHER_DOCUMENTS]
            ),
        )
    )
    refresh = RecordingRefresh(
        folder, read_task(folder / "task"), boundaries, options, ROW_NEGATIVES, micro, precision
    )
    encoder = encoder_of(backbone, score, "full", dtype)
    make = partial(
        collate,
        tokenize=encoder.tokenize,
        known_positives=known_positives(ROWS),
        negatives_per_query=ROW_NEGATIVES + options.negatives,
    )
    settings = OptimizerSettings(
        rate, rate, rate, 0.01, "cosine", warmup_steps=1, total_steps=STEPS
    )
    module = RecordingRetriever(
        encoder,
        MicroBatching(encoder, micro, 3 * micro),
        Contrastive(SCORES[score], exclusions=(RepeatedPositives(),)),
        Temperature(0.1, is_learned=False).to(dtype),
        settings,
        dict,
    )
    module.seen = []
    checkpoints = CheckpointCallback(refresh, checkpoint)
    trainer = trainer_of(
        kind,
        max_steps=stop - first,
        max_epochs=-1,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[refresh, checkpoints, *extra],
        logger=[JsonlLogger(folder / "log.jsonl")],
        log_every_n_steps=1,
    )
    steps = Steps(ROWS, make, seed=3, batch_size=BATCH, first=first, last=STEPS, refresher=refresh)
    trainer.fit(
        module, datamodule=PairData(steps, retrieval_set_from_rows(list(ROWS)[:2], "validation"))
    )
    weights = full_weights(module)
    losses, texts = zip(*module.seen, strict=True)
    return (
        list(losses),
        list(texts),
        weights,
        getattr(checkpoints, "final_state", None),
        refresh.weights,
    )


def read_hashes(folder):
    """The sha256 of every file of every boundary, by its name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("step-*/*"))
    }
