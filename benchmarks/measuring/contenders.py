"""Trains one model for `benchmarks/quality.py`, and measures it on its own set and on collections
that it was not trained on. Run as a process of its own: `python -m measuring.contenders JOB.json`.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import nearfar
from measuring.cuts import training_pairs
from measuring.data import TEMPERATURE, model_folder

METRIC = "ndcg@10"
SHARES = (0.3, 0.5, 0.7)
"""Of the change by training, besides all of it."""
PEER_RATE, PEER_BATCH = 2e-5, 64
"""What its documentation recommends for its contrastive loss."""


def train(job: dict[str, Any], folder: Path) -> Path:
    """The folder of the model that was trained."""
    if job["library"] == "sentence-transformers":
        return train_peer(job, folder / "peer")
    settings = {
        "model.backbone": model_folder(),
        "data.train": job["data"],
        "output": str(folder),
        "name": "run",
        "seed": job["seed"],
        "machine.threads": job["threads"],
        "validation.interpolate": False,  # all shares are measured below
        **job["settings"],
    }
    return nearfar.fit(job["recipe"], settings, replace=True).model


def train_peer(job: dict[str, Any], folder: Path) -> Path:
    """Trains with sentence-transformers as it documents it: the last weights are the model."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    pairs = training_pairs(Path(job["data"]))
    model = SentenceTransformer(model_folder(), device="cpu")
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            num_train_epochs=job["settings"]["epochs"],
            per_device_train_batch_size=PEER_BATCH,
            learning_rate=PEER_RATE,
            warmup_ratio=0.1,
            batch_sampler="no_duplicates",
            bf16=True,
            use_cpu=True,
            seed=job["seed"],
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [{"anchor": query, "positive": document} for query, document in pairs]
        ),
        loss=losses.MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE),
    ).train()
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


def measure(models: dict[str, str], data: Path) -> dict[str, dict[str, list[float]]]:
    """nDCG@10 of each query of dev and test, by split and by the name of the model.

    Both splits search the same documents, so they are measured together.
    """
    evaluation = nearfar.evaluate(list(models.values()), str(data), "test")
    values: dict[str, dict[str, list[float]]] = {"dev": {}, "test": {}}
    dev = {line.split("\t")[0] for line in (data / "qrels/dev.tsv").read_text().splitlines()[1:]}
    # BM25 comes first, and the first model last.
    for name, system in zip(["BM25", *reversed(models)], evaluation.systems, strict=True):
        for split in values:
            values[split][name] = [
                float(value)
                for query, value in zip(evaluation.queries, system.metrics[METRIC], strict=True)
                if (query in dev) == (split == "dev")
            ]
    return values


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The values of the base model, of the trained one, and of those in between, on every set."""
    from trainer.models.blend import write_blend

    folder = Path(job["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    base, models = model_folder(), {}
    if job["library"] == "nearfar":
        tuned_model = str(train(job, folder))
        for share in SHARES:
            models[f"{share:g}"] = str(folder / f"blend-{share:g}")
            write_blend(base, tuned_model, share, Path(models[f"{share:g}"]), replace=True)
        models["1"] = tuned_model
    elif job["library"] == "sentence-transformers":
        models["1"] = str(train(job, folder))
    else:
        models["0"] = base
    sets = {name: measure(models, Path(path)) for name, path in job["measured"].items()}
    result = {**sets.pop("own"), "general": {name: values["test"] for name, values in sets.items()}}
    shutil.rmtree(folder, ignore_errors=True)
    return result


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text())
    answer = run(request)
    target = Path(request["result"])
    target.with_suffix(".part").write_text(json.dumps(answer))
    target.with_suffix(".part").rename(target)
