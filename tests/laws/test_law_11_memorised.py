"""Law 11: 32 examples are memorised: every objective, all weights and LoRA, through the real module
and Lightning.
"""

import random

import pytest
import pytorch_lightning as lightning
import torch

from trainer.build.families.registry import build_model, family_of
from trainer.build.module import lightning_module
from trainer.data.collate import collate
from trainer.data.rows import Row, known_positives
from trainer.objectives.xtr import with_limits
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import BiEncoderRecipe, ColBERTRecipe
from trainer.recipe.schema.machine import MachineSection
from trainer.recipe.schema.model import BiEncoderModel, ColBERTModel, FullTuning, LoraTuning
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    ColBERTContrastiveObjective,
    CosentObjective,
    DistillationObjective,
    MarginMseObjective,
    SigmoidObjective,
    TripletObjective,
)
from trainer.recipe.schema.training import OptimizationSection
from trainer.scores import own_scores, xtr

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word(generator):
    return "".join(generator.choices(LETTERS, k=3))


def rows_of(objective):
    """32 rows of random words: nothing but memory can connect a query with its document."""
    generator = random.Random(4)
    texts = [" ".join(word(generator) for _ in range(generator.randint(2, 6))) for _ in range(96)]
    if isinstance(objective, CosentObjective):
        return [Row(texts[row], texts[32 + row], labels=(float(row % 4),)) for row in range(32)]
    if isinstance(objective, TAUGHT):
        return [
            Row(texts[row], texts[32 + row], (texts[64 + row],), labels=(1.0, 0.0))
            for row in range(32)
        ]
    return [Row(texts[row], texts[32 + row], (texts[64 + row],)) for row in range(32)]


TAUGHT = DistillationObjective | MarginMseObjective
OBJECTIVES = {
    "contrastive": ("bi_encoder", BiEncoderContrastiveObjective(temperature=0.1)),
    "symmetric": (
        "bi_encoder",
        BiEncoderContrastiveObjective(temperature=0.1, symmetric=True, learn_temperature=True),
    ),
    "sigmoid": ("bi_encoder", SigmoidObjective(temperature=0.1, bias=-4.0)),
    "cosent": ("bi_encoder", CosentObjective(temperature=0.1)),
    "triplet": ("bi_encoder", TripletObjective(margin=0.3)),
    "distillation": ("bi_encoder", DistillationObjective(temperature=0.1, teacher_temperature=0.1)),
    "margin_mse": ("bi_encoder", MarginMseObjective()),
    "colbert": ("colbert", ColBERTContrastiveObjective(temperature=1.0)),
    # Many enough: a positive of which no token is retrieved has a score of zero and no gradient.
    "colbert, xtr": ("colbert", ColBERTContrastiveObjective(temperature=0.1, xtr_top_k=512)),
    "colbert, distillation": (
        "colbert",
        DistillationObjective(temperature=1.0, teacher_temperature=0.1),
    ),
    "colbert, margin_mse": ("colbert", MarginMseObjective()),
}


def run_of(toy_folder, kind, objective, tuning, learning_rate):
    family, model = {
        "bi_encoder": (BiEncoderRecipe, BiEncoderModel),
        "colbert": (ColBERTRecipe, ColBERTModel),
    }[kind]
    return family(
        name="memory",
        model=model(backbone=str(toy_folder("roberta")), tuning=tuning),
        data=DataSection(
            train="none", negatives_per_query=0 if isinstance(objective, CosentObjective) else 1
        ),
        objective=objective,
        optimization=OptimizationSection(
            batch_size=32, learning_rate=learning_rate, weight_decay=0.0, warmup_steps=5
        ),
        machine=MachineSection(accelerator="cpu", precision="fp32", micro_batch_tokens=512),
    )


def trained(run, steps, encoder):
    """The encoder after so many steps of the one batch, and the batch."""
    rows = rows_of(run.objective)
    batch = collate(rows, encoder.tokenize, known_positives(rows), run.data.negatives_per_query)
    texts = [
        side.select(torch.tensor([row])).tokens.tolist()
        for side in (batch.queries, batch.documents)
        for row in range(len(side))
    ]
    assert len(set(map(tuple, texts))) == len(texts), "every text is another one to the model too"
    module = lightning_module(run, encoder, steps)
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, **quiet
    )
    trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader([batch], batch_size=None))
    return batch


def remembered(run, encoder, batch):
    """The share of queries (of pairs of unequal grade, for CoSENT) that are answered as in
    training.
    """
    score, objective = family_of(run).score(run), run.objective
    with torch.no_grad():
        queries, documents = encoder.eval()(batch.queries), encoder(batch.documents)
        if getattr(objective, "xtr_top_k", None):
            score, (queries, documents) = xtr, with_limits(queries, documents, objective.xtr_top_k)
        each = own_scores(queries, documents, score)
        everything = score(queries, documents)
    if isinstance(objective, CosentObjective):
        scores, grades = each[:, 0], batch.labels.flatten()
        ordered = grades[:, None] > grades[None, :]
        return float((scores[:, None] > scores[None, :])[ordered].float().mean())
    if isinstance(
        objective, TripletObjective | TAUGHT
    ):  # its own negative alone: another row's document is nothing it learns from
        return float((each[:, 0] > each[:, 1] + 0.25).float().mean())
    return float(
        (everything.argmax(1) == torch.arange(32) * batch.documents_per_query).float().mean()
    )


@pytest.mark.parametrize(
    "tuning", [FullTuning(), LoraTuning(rank=16, alpha=32.0)], ids=["full", "lora"]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_32_examples_are_memorised(toy_folder, name, tuning):
    kind, objective = OBJECTIVES[name]
    run = run_of(toy_folder, kind, objective, tuning, 0.01)
    encoder = build_model(run)
    batch = trained(run_of(toy_folder, kind, objective, tuning, 1e-12), 1, encoder)
    before = remembered(run, encoder, batch)
    assert before < 0.8, "at the start, and with a rate of next to nothing, little is known"
    trained(run, 40, encoder.train())
    assert remembered(run, encoder, batch) >= 0.99 > before
