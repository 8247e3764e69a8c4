"""One toy task, trained to its end by four libraries, each as its own documentation says. A run
that finds checkpoints of an earlier attempt continues from the newest.

All train the same two-layer BERT with dropout on the same pairs, and save every third step. Each
function notes the pairs of every step, and leaves its final weights in `final.safetensors`.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

BATCH, STEPS, SAVE_STEPS, PAIRS, SEED, RATE = 8, 24, 3, 96, 13, 1e-3
DROPOUT, SCALE, WIDTH = 0.1, 20.0, 256
WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "western", "vault")
TEXTS = [f"{one} {two} {three}" for one in WORDS for two in WORDS for three in WORDS[:2]]
QUERIES = [f"the {text}" for text in TEXTS[:PAIRS]]
DOCUMENTS = [f"a {text} of the machine" for text in TEXTS[:PAIRS]]


def write_task(folder: Path) -> None:
    """Writes the model, with 9 MB of weights so that a save takes a moment, and the pairs."""
    sys.path.append(str(Path(__file__).parents[2] / "tests"))
    from toy_models import word_pieces
    from transformers import BertConfig, BertModel

    tokenizer = word_pieces()
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=66,
        hidden_dropout_prob=DROPOUT,
        attention_probs_dropout_prob=DROPOUT,
    )
    BertModel(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name, start, end in (("train", 0, PAIRS), ("held-out", PAIRS, PAIRS + 16)):
        rows = [{"query": f"the {text}", "positive": f"a {text}"} for text in TEXTS[start:end]]
        for row, document in zip(rows, DOCUMENTS if name == "train" else [], strict=False):
            row["positive"] = document
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Notes:
    """The pairs of each step, appended to `samples.jsonl` of a run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "samples.jsonl"

    def add(self, step: int, pairs: Sequence[int]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([step, list(pairs)]) + "\n")

    def read(self) -> list[tuple[int, list[int]]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [tuple(json.loads(line)) for line in lines if line.endswith("]]")]


def _tokenizer(task: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(task / "model")


class Model(nn.Module):
    """A mean-pooled encoder and its in-batch contrastive loss, for the libraries without one."""

    def __init__(self, task: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.encoder = AutoModel.from_pretrained(task / "model")
        self.train()  # it is loaded without dropout

    def forward(self, queries: Any, documents: Any) -> Any:
        scores = SCALE * self._encode(queries) @ self._encode(documents).T
        return nn.functional.cross_entropy(scores, torch.arange(len(scores)))

    def _encode(self, texts: Any) -> Any:
        hidden = self.encoder(**texts).last_hidden_state
        mask = texts["attention_mask"][..., None]
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def _loader(task: Path) -> Any:
    tokenizer = _tokenizer(task)

    def collate(numbers: list[int]) -> Any:
        sides = ([side[number] for number in numbers] for side in (QUERIES, DOCUMENTS))
        return numbers, *(tokenizer(one, padding=True, return_tensors="pt") for one in sides)

    return DataLoader(range(PAIRS), batch_size=BATCH, shuffle=True, collate_fn=collate)


def train_lightning(task: Path, folder: Path) -> None:
    """`ModelCheckpoint(save_last=True)` and `fit(ckpt_path="last")`."""
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    notes = Notes(folder)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model(task)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            notes.add(self.global_step, batch[0])
            return self.model(*batch[1:])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=RATE)

    lightning.seed_everything(SEED, workers=True)
    module = Module()
    saving = ModelCheckpoint(
        folder / "checkpoints", every_n_train_steps=SAVE_STEPS, save_last=True, save_top_k=-1
    )
    lightning.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    ).fit(module, _loader(task), ckpt_path="last")
    _save_final(module.model.encoder, folder)


def train_sentence_transformers(task: Path, folder: Path, jit: bool = False) -> None:
    """Its Trainer with `save_steps`, and `train(resume_from_checkpoint=True)`."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers.trainer_utils import get_last_checkpoint

    notes, tokenizer = Notes(folder), _tokenizer(task)
    numbers = {tuple(tokenizer(text).input_ids): number for number, text in enumerate(QUERIES)}
    encoder = Transformer(str(task / "model"))
    model = SentenceTransformer(modules=[encoder, Pooling(WIDTH)], device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=RATE,
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        enable_jit_checkpoint=jit,
        seed=SEED,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )

    class Loss(losses.MultipleNegativesRankingLoss):
        def forward(self, sentence_features: Any, labels: Any) -> Any:
            rows = sentence_features[0]["input_ids"].tolist()
            texts = [tuple(token for token in row if token) for row in rows]  # 0 is padding
            notes.add(trainer.state.global_step, [numbers[text] for text in texts])
            return super().forward(sentence_features, labels)

    rows = Dataset.from_dict({"query": QUERIES, "positive": DOCUMENTS})
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=rows, loss=Loss(model, scale=SCALE)
    )
    checkpoints = folder / "checkpoints"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last is not None)
    if trainer.state.global_step == STEPS:
        _save_final(model, folder)


def train_accelerate(task: Path, folder: Path) -> None:
    """`save_state`, `load_state` and `skip_first_batches`, as in its example of checkpointing."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True)
    )
    notes, places = Notes(folder), folder / "checkpoints"
    set_seed(SEED)
    model = Model(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    model, optimizer, loader = accelerator.prepare(model, optimizer, _loader(task))
    step = 0
    if saved := sorted(places.glob("step_*"), key=lambda path: int(path.name[5:])):
        accelerator.load_state(str(saved[-1]))
        step = int(saved[-1].name.removeprefix("step_"))
    first_epoch, skipped = divmod(step, len(loader))
    model.train()
    for epoch in range(first_epoch, STEPS // len(loader)):
        loader.set_epoch(epoch)
        is_partial = epoch == first_epoch and skipped > 0
        batches = accelerator.skip_first_batches(loader, skipped) if is_partial else loader
        for numbers, queries, documents in batches:
            notes.add(step, numbers)
            accelerator.backward(model(queries, documents))
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % SAVE_STEPS == 0:
                accelerator.save_state(str(places / f"step_{step}"))
    _save_final(accelerator.unwrap_model(model).encoder, folder)


def train_nearfar(task: Path, folder: Path) -> None:
    """`nearfar fit --resume`."""
    import pytorch_lightning as lightning

    from trainer.batch import identity
    from trainer.cli.main import main

    notes = Notes(folder)
    numbers = {identity(text): number for number, text in enumerate(QUERIES)}

    class Watch(lightning.Callback):
        def on_train_batch_start(self, lightning_trainer: Any, module: Any, batch: Any, *_: Any):
            pairs = [numbers[one] for one in batch.queries.identities.tolist()]
            notes.add(lightning_trainer.global_step, pairs)

    fit = lightning.Trainer.fit

    def watched_fit(self: Any, *positional: Any, **named: Any) -> None:
        self.callbacks.append(Watch())
        fit(self, *positional, **named)

    lightning.Trainer.fit = watched_fit
    repository = Path(__file__).parents[2]
    sys.argv = [
        "nearfar",
        "fit",
        str(repository / "recipes/bi-encoder-full.yaml"),
        "--resume",
        "name=run",
        f"output={folder}",
        f"model.backbone={task}/model",
        f"model.dropout={DROPOUT}",
        f"data.train={task}/train.jsonl",
        f"data.validation={task}/held-out.jsonl",
        f"optimization.batch_size={BATCH}",
        f"optimization.max_steps={STEPS}",
        f"optimization.learning_rate={RATE}",
        f"objective.temperature={1 / SCALE}",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
        "machine.threads=1",
        f"checkpoints.every_steps={SAVE_STEPS}",
        f"seed={SEED}",
    ]
    main()


def _save_final(module: nn.Module, folder: Path) -> None:
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    save_file(weights, folder / "final.safetensors")


def final_weights(library: str, folder: Path) -> dict[str, Any]:
    """The weights after the last step; empty if the training did not end."""
    if library != "Nearfar":
        path = folder / "final.safetensors"
        return load_file(path) if path.exists() else {}
    weights: dict[str, Any] = {}
    latest = folder / "run/checkpoints/latest"
    if latest.resolve().name == f"step-{STEPS:09}":
        for file in latest.glob("*.safetensors"):
            weights |= load_file(file)
    return weights


LIBRARIES: dict[str, Callable[[Path, Path], None]] = {
    "Nearfar": train_nearfar,
    "Lightning": train_lightning,
    "sentence-transformers": train_sentence_transformers,
    "accelerate": train_accelerate,
}
CHECKPOINTS = {
    "Nearfar": ("run/checkpoints", "step-*"),
    "Lightning": ("checkpoints", "*step=*.ckpt"),
    "sentence-transformers": ("checkpoints", "checkpoint-*"),
    "accelerate": ("checkpoints", "step_*"),
}
"""The folder of a run that contains its checkpoints, and their names, which have the step last."""
