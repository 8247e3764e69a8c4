"""Training: pairs per second, peak memory and time to the first step, against sentence-transformers' own trainer.

Same rows in the same order, same model, same LoRA (or all weights), batch, loss, optimizer, lengths; no evaluation, nothing saved.
Ours runs as `nearfar fit` does. The losses of every step must agree in float32 to 1e-5, or the script ends with an error.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring.children import child, run, seconds_since_start
from measuring.clocks import Clock, peak_memory_megabytes
from measuring.data import BATCH_SIZE, SEED, TEMPERATURE, model_folder, pairs_in_order, present, write_pairs
from measuring.record import keep, noise, spread, table

CONTENDERS = {
    "nearfar fp32": ("ours", "fp32"),
    "sentence-transformers fp32": ("theirs", "fp32"),
    "nearfar default": ("ours", "auto"),
    "sentence-transformers bf16": ("theirs", "bf16"),
}
WARM_UP_STEPS, LEARNING_RATE, WEIGHT_DECAY, CLIP = 2, 1e-4, 0.01, 1.0
RANK, ALPHA = 32, 64.0


class Record:
    """Clocks and losses of each step of one run."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.losses: list[float] = []
        self.clocks: list[Clock] = []
        self.first_step: dict[str, float] = {}
        self.peak = 0.0

    def step(self) -> None:
        self.clocks.append(Clock.now())
        self.peak = peak_memory_megabytes()
        if not self.first_step:
            self.first_step = {"wall": seconds_since_start(self.job), "processor": self.clocks[0].processor}

    def result(self) -> dict[str, Any]:
        assert len(self.clocks) == len(self.losses) == self.job["steps"], (len(self.clocks), len(self.losses))
        spent = self.clocks[-1].since(self.clocks[WARM_UP_STEPS - 1])
        pairs = BATCH_SIZE * (len(self.clocks) - WARM_UP_STEPS)
        return {
            "pairs_per_second": pairs / spent.wall,
            "pairs_per_processor_second": pairs / spent.processor,
            "wait_ratio": spent.wait_ratio,
            "first_step_seconds": self.first_step["wall"],
            "first_step_processor_seconds": self.first_step["processor"],
            "peak_megabytes": self.peak,
            "losses": self.losses,
        }


def our_recipe(job: dict[str, Any]) -> Any:
    from trainer import recipe

    tuning: Any = recipe.Lora(rank=RANK, alpha=ALPHA) if job["tuning"] == "lora" else recipe.FullTuning()
    return recipe.Recipe(
        name="speed",
        output=job["folder"],
        seed=SEED,
        model=recipe.Model(backbone=job["model"], tuning=tuning),
        data=recipe.Data(train=job["rows"], validation=job["validation"]),
        objective=recipe.Contrastive(temperature=TEMPERATURE),
        optimization=recipe.Optimization(
            batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            schedule="constant",
            warmup_ratio=0.0,
            gradient_clip_norm=CLIP,
        ),
        validation=recipe.Validation(every_steps=job["steps"]),
        machine=recipe.Machine(precision=job["precision"], threads=job["threads"] or None),
    )


def measure_ours(job: dict[str, Any]) -> dict[str, Any]:
    """What `trainer/cli/fit.py` does up to the last step."""
    from trainer.recipe_file import dump_recipe
    from trainer.runtime.run_folder import RunFolder

    run_recipe = our_recipe(job)

    from trainer import build
    from trainer.data.fingerprint import fingerprint
    from trainer.runtime.best import KeepBest
    from trainer.runtime.stop import GracefulStop

    build.prepare_machine(run_recipe.machine)
    data = build.data_sets(run_recipe.data, run_recipe.seed)
    steps = build.total_steps(run_recipe.optimization, len(data.train))
    encoder = build.encoder_of(run_recipe)
    if job["adapter"]:
        exchange_adapter(encoder.backbone, Path(job["adapter"]))

    record = Record(job)
    with RunFolder.create(
        Path(run_recipe.output) / f"run-{job['turn']}", dump_recipe(run_recipe), [], fingerprint(run_recipe.data, len(data.train))
    ) as folder:
        module = build.bi_encoder(run_recipe, encoder, steps)
        callbacks = [KeepBest(folder.checkpoints / "best", base=0.0), GracefulStop(), our_callback(record)]
        trainer = build.trainer(run_recipe, folder, steps, len(data.train), callbacks)
        trainer.fit(module, datamodule=build.pair_data(run_recipe, data, encoder, steps))
    return {**record.result(), "precision": build.precision(run_recipe.machine)}


def our_callback(record: Record) -> Any:
    import pytorch_lightning as lightning

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            record.losses.append(float(outputs["loss"]))
            record.step()

    return Watch()


def exchange_adapter(backbone: Any, path: Path) -> None:
    """Writes the fresh adapter once and reads it ever after, so that every run of every contender starts from the same weights."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = {name.removeprefix("base_model.model."): value for name, value in backbone.named_parameters() if ".lora_" in name}
    assert weights
    if not path.exists():
        save_file({name: value.detach().contiguous() for name, value in weights.items()}, path)
        return
    kept = load_file(path)
    assert kept.keys() == weights.keys(), kept.keys() ^ weights.keys()
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(kept[name])


def measure_theirs(job: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    model = SentenceTransformer(job["model"], device="cpu", config_kwargs={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    if job["tuning"] == "lora":
        from peft import LoraConfig

        layers = [
            f"encoder.layer.{layer}.{name}"
            for layer in range(model[0].auto_model.config.num_hidden_layers)
            for name in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            )
        ]
        model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=layers, task_type="FEATURE_EXTRACTION"))
        exchange_adapter(model[0].auto_model, Path(job["adapter"]))
    pairs = [(row["query"], row["positive"]) for row in map(json.loads, Path(job["ordered"]).read_text().splitlines())]
    record = Record(job)

    class Loss(MultipleNegativesRankingLoss):
        def forward(self, *inputs: Any, **settings: Any) -> Any:
            loss = super().forward(*inputs, **settings)
            record.losses.append(float(loss))
            return loss

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            record.step()

    arguments = SentenceTransformerTrainingArguments(
        output_dir=job["folder"],
        per_device_train_batch_size=BATCH_SIZE,
        max_steps=job["steps"],
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=CLIP,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        bf16=job["precision"] == "bf16",
        use_cpu=True,
        seed=SEED,
        batch_sampler=lambda dataset, **settings: DefaultBatchSampler(
            SequentialSampler(dataset), **{**settings, "batch_size": BATCH_SIZE, "drop_last": True}
        ),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    columns = {"anchor": [query for query, _ in pairs], "positive": [positive for _, positive in pairs]}
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=Loss(model, scale=1 / TEMPERATURE), callbacks=[Watch()]
    )
    trainer.train()
    return {**record.result(), "precision": job["precision"]}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    return measure_ours(job) if job["who"] == "ours" else measure_theirs(job)


def compare(name: str, source: Path, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Every contender, `turns` times in turn, on one data set."""
    steps = arguments.steps if name == "azure-cli" else arguments.long_steps
    results: dict[str, list[dict[str, Any]]] = {contender: [] for contender in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="nearfar-speed-") as temporary:
        folder = Path(temporary)
        rows, ordered, validation = folder / "rows.jsonl", folder / "ordered.jsonl", folder / "validation.jsonl"
        write_pairs(source, steps, rows)
        ordered.write_text("".join(json.dumps({"query": query, "positive": positive}) + "\n" for query, positive in pairs_in_order(rows, steps)))
        validation.write_text("".join(line + "\n" for line in rows.read_text().splitlines()[:8]))
        job = {
            "rows": str(rows), "ordered": str(ordered), "validation": str(validation), "folder": temporary, "model": model_folder(), "steps": steps,
            "tuning": arguments.tuning, "adapter": str(folder / "adapter.safetensors") if arguments.tuning == "lora" else "", "threads": arguments.threads,
        }  # fmt: skip
        for turn in range(arguments.turns):
            for contender, (who, precision) in CONTENDERS.items():
                result = child(__file__, {**job, "who": who, "precision": precision, "turn": f"{turn}-{precision}"}, timeout_seconds=900)
                results[contender].append(result)
                print(f"{name} turn {turn + 1} {contender}: {result['pairs_per_second']:.1f} pairs/s, "
                      f"{result['pairs_per_processor_second']:.1f} per processor second, kept waiting {result['wait_ratio']:.0%}", flush=True)  # fmt: skip
    difference = largest_difference(results["nearfar fp32"][0]["losses"], results["sentence-transformers fp32"][0]["losses"])
    assert difference < 1e-5, f"the losses differ by {difference}: not the same training"
    return report(name, results, steps, difference, arguments), results


def largest_difference(ours: list[float], theirs: list[float]) -> float:
    return max(abs(mine - other) for mine, other in zip(ours, theirs, strict=True))


def report(name: str, results: dict[str, list[dict[str, Any]]], steps: int, difference: float, arguments: argparse.Namespace) -> str:
    """The table of one data set."""
    keys = ("pairs_per_second", "pairs_per_processor_second", "peak_megabytes", "first_step_seconds", "first_step_processor_seconds")
    base = results["sentence-transformers fp32"]
    rows = []
    for contender, runs in results.items():
        ratios = [f"{middle(runs, key) / middle(base, key):.2f}x" for key in keys[:2]]
        values = [spread([one[key] for one in runs]) for key in keys]
        rows.append([f"{contender} ({runs[0]['precision']})", values[0], ratios[0], values[1], ratios[1], *values[2:]])
    header = ["", "pairs/s", "ratio", "pairs/processor s", "ratio", "peak MB", "first step s", "its processor s"]
    waits = [one["wait_ratio"] for runs in results.values() for one in runs]
    threads = f", {arguments.threads} threads" if arguments.threads else ""
    title = (f"{name}, {arguments.tuning}: {arguments.turns} turns of {steps} steps ({WARM_UP_STEPS} of them warm-up) of {BATCH_SIZE} pairs{threads}; "
             "median (range)")  # fmt: skip
    return "\n".join([table(title, header, rows), f"largest difference of a step's loss in fp32: {difference:.1e}", noise(waits)])


def middle(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(one[key] for one in runs)


def main(arguments: argparse.Namespace) -> None:
    texts, raw = [], {}
    for name in arguments.data.split(","):
        source = present(name)
        if source is not None:
            text, raw[name] = compare(name, source, arguments)
            texts.append(text)
    if texts:
        claim = "training-speed" + ("" if arguments.tuning == "lora" else f"-{arguments.tuning}")
        keep(claim + (f"-{arguments.threads}-threads" if arguments.threads else ""), "\n\n".join(texts), raw)


if __name__ == "__main__":
    run(__file__, measure, main, data="azure-cli,pycode", tuning="lora", turns=3, steps=10, long_steps=5, threads=0)
