"""A training that is watched: what each step took and lost, and our own way of training, that of
`nearfar fit`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring.children import seconds_since_start
from measuring.clocks import Clock, memory_megabytes, peak_memory_megabytes
from measuring.data import SEED

WEIGHT_DECAY, CLIP = 0.01, 1.0


class Record:
    """Clocks and losses of each step of one run; to be made once the model is loaded."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.losses: list[float] = []
        self.clocks: list[Clock] = []
        self.first_step: dict[str, float] = {}
        self.before, self.peak = memory_megabytes(), 0.0

    def step(self) -> None:
        self.clocks.append(Clock.now())
        self.peak = peak_memory_megabytes()
        if not self.first_step:
            self.first_step = {
                "wall": seconds_since_start(self.job),
                "processor": self.clocks[0].processor,
            }

    def result(self) -> dict[str, Any]:
        assert len(self.clocks) == len(self.losses) == self.job["steps"], (
            len(self.clocks),
            len(self.losses),
        )
        spent = self.clocks[-1].since(self.clocks[self.job["warm_up_steps"] - 1])
        pairs = self.job["batch"] * (len(self.clocks) - self.job["warm_up_steps"])
        return {
            "pairs_per_second": pairs / spent.wall,
            "pairs_per_processor_second": pairs / spent.processor,
            "wait_ratio": spent.wait_ratio,
            "first_step_seconds": self.first_step["wall"],
            "first_step_processor_seconds": self.first_step["processor"],
            "peak_megabytes": self.peak,
            "megabytes_above_start": self.peak - self.before,
            "losses": self.losses,
        }


def shared_sections(job: dict[str, Any], learning_rate: float) -> dict[str, Any]:
    """The parts of our recipe that do not depend on the kind of model: AdamW at a constant rate, no
    validation before the last step.
    """
    from trainer.recipe.schema.data import DataSection
    from trainer.recipe.schema.machine import MachineSection
    from trainer.recipe.schema.training import OptimizationSection, ValidationSection

    kept_tokens = {"kept_tokens": job["kept_tokens"]} if "kept_tokens" in job else {}
    return {
        "name": "speed",
        "output": job["folder"],
        "seed": SEED,
        "data": DataSection(train=job["rows"], validation=job["validation"]),
        "optimization": OptimizationSection(
            batch_size=job["batch"],
            learning_rate=learning_rate,
            weight_decay=WEIGHT_DECAY,
            schedule="constant",
            warmup_ratio=0.0,
            gradient_clip_norm=CLIP,
        ),
        "validation": ValidationSection(every_steps=job["steps"]),
        "machine": MachineSection(
            precision=job["precision"], threads=job["threads"] or None, **kept_tokens
        ),
    }


def train_ours(
    run_recipe: Any, job: dict[str, Any], start: Callable[[Any], None] = lambda encoder: None
) -> dict[str, Any]:
    """What `trainer/run.py` does up to the last step; `start` may first change the encoder's
    weights.
    """
    from trainer.recipe.load import dump_recipe
    from trainer.runtime.run_folder import RunFolder

    written = dump_recipe(run_recipe)

    from trainer.build import hardware
    from trainer.build.data import data_fingerprint, data_sets, pair_data
    from trainer.build.families.registry import build_model
    from trainer.build.lightning_trainer import lightning_trainer
    from trainer.build.module import lightning_module, total_steps, validation_times
    from trainer.checkpoints.best import KeepBest

    hardware.prepare_machine(run_recipe.machine)
    data = data_sets(run_recipe.data, run_recipe.seed)
    steps = total_steps(run_recipe.optimization, len(data.train))
    encoder = build_model(run_recipe)
    start(encoder)
    record = Record(job)
    path = (
        Path(run_recipe.output)
        / f"run-{job['turn']}-{run_recipe.machine.precision}-{run_recipe.machine.kept_tokens}"
    )
    with RunFolder.create(
        path, written, [], data_fingerprint(run_recipe, len(data.train))
    ) as folder:
        module = lightning_module(run_recipe, encoder, steps)
        callbacks = [
            validation_times(run_recipe, len(data.train), steps, data.validation),
            KeepBest(folder.checkpoints / "best"),
            our_callback(record),
        ]
        trainer = lightning_trainer(run_recipe, folder, steps, callbacks)
        trainer.fit(module, datamodule=pair_data(run_recipe, data, encoder, steps))
    return {**record.result(), "precision": hardware.precision(run_recipe.machine)}


def our_callback(record: Record) -> Any:
    import pytorch_lightning as lightning

    class Watch(lightning.Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            record.losses.append(float(outputs["loss"]))
            record.step()

    return Watch()


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(mine - other) for mine, other in zip(ours, theirs, strict=True))
