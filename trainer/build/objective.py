"""A recipe's objective, score and filters as functions."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import assert_never

import torch

from trainer.batch import Batch
from trainer.build import hardware
from trainer.errors import BadRecipe
from trainer.microbatches import Encode, in_chunks
from trainer.models.dense import read_encoder
from trainer.models.encoder import Encoder
from trainer.modules.bi_encoder import Loss, Temperature
from trainer.objectives import contrastive as objectives
from trainer.objectives.contrastive import Filter, Outcome
from trainer.objectives.hard_negatives import Hardness
from trainer.objectives.matryoshka import latest
from trainer.objectives.xtr import with_limits
from trainer.recipe.schema.families import ColBERTRecipe, Recipe, VectorRecipe
from trainer.recipe.schema.objective import (
    BiEncoderContrastiveObjective,
    ColBERTContrastiveObjective,
    ContrastiveObjective,
    CosentObjective,
    DistillationObjective,
    MarginMseObjective,
    TripletObjective,
    VectorObjective,
)
from trainer.scores import Score, dot, kernel_maxsim, maxsim, plain_maxsim, xtr


def objective_loss(
    objective: VectorObjective, score: Score = dot, filters: Sequence[Filter] = ()
) -> tuple[Loss, Temperature]:
    """The objective with its settings and the family's score filled in, and its temperature."""
    match objective:
        case ContrastiveObjective():
            hardness = (
                Hardness(**objective.hardness.model_dump())
                if objective.hardness is not None
                else None
            )
            function = partial(
                objectives.contrastive,
                symmetric=objective.symmetric,
                filters=filters,
                hardness=hardness,
            )
            if isinstance(objective, ColBERTContrastiveObjective) and (
                objective.xtr_top_k is not None
            ):
                score, function = (
                    xtr,
                    partial(function, prepare=partial(with_limits, top_k=objective.xtr_top_k)),
                )
            return partial(_scored, score, function), Temperature(
                objective.temperature, objective.learn_temperature
            )
        case DistillationObjective():
            function = partial(
                objectives.distillation, teacher_temperature=objective.teacher_temperature
            )
            return partial(_scored, score, function), Temperature(
                objective.temperature, learned=False
            )
        case MarginMseObjective():
            return partial(_scored_plainly, score, objectives.margin_mse), Temperature(
                1.0, learned=False
            )
        case CosentObjective():
            return partial(_scored, score, objectives.cosent), Temperature(
                objective.temperature, learned=False
            )
        case TripletObjective():
            return partial(
                _scored_plainly, score, partial(objectives.triplet, margin=objective.margin)
            ), Temperature(1.0, learned=False)
        case _:
            assert_never(objective)


def score_function(run: Recipe) -> Score:
    """How the family compares a query with a document, computed as the machine wishes. Raises
    BadRecipe for kernels that are not there.
    """
    if not isinstance(run, ColBERTRecipe):
        return dot
    match run.machine.maxsim:
        case "auto" | "pieces":
            return maxsim
        case "plain":
            return plain_maxsim
        case "kernels":
            if (
                hardware.accelerator(run.machine) != "cuda"
                or find_spec("late_interaction_kernels") is None
            ):
                raise BadRecipe(
                    "machine.maxsim=kernels needs an NVIDIA GPU and the package "
                    "late-interaction-kernels (pip install 'nearfar[kernels]'); "
                    "use machine.maxsim=auto"
                )
            return kernel_maxsim
        case _:
            assert_never(run.machine.maxsim)


def negative_filters(run: VectorRecipe, encoder: Encoder) -> list[Filter]:
    """What leaves out negatives that are probably right. Raises BadRecipe for a guide with another
    tokenizer than the encoder's.
    """
    found: list[Filter] = []
    objective = run.objective
    if not isinstance(objective, ContrastiveObjective):
        return found
    if run.refresh is not None:
        found.append(objectives.repeated_positives)
    if isinstance(objective, BiEncoderContrastiveObjective) and objective.guide is not None:
        guide = read_encoder(objective.guide).to(hardware.device(run.machine)).requires_grad_(False)
        if guide.contract.tokenizer_fingerprint != encoder.contract.tokenizer_fingerprint:
            raise BadRecipe(
                f"objective.guide={objective.guide} cuts texts into other tokens than "
                f"{run.model.backbone}, and a batch holds the tokens of one; "
                "take a guide with the same tokenizer, such as a larger model of the same family "
                "or the model before training"
            )
        in_parts = in_chunks(guide, hardware.micro_batch_tokens(run.machine))
        outscoring = partial(objectives.outscoring, guide=in_parts, margin=objective.guide_margin)
        found.append(outscoring if run.matryoshka is None else latest(outscoring))
    if objective.teacher_margin is not None:
        found.append(partial(objectives.taught_better, margin=objective.teacher_margin))
    return found


def _scored(
    score: Score,
    objective: Callable[..., Outcome],
    batch: Batch,
    encode: Encode,
    temperature: torch.Tensor,
) -> Outcome:
    return objective(batch, encode, score, temperature)


def _scored_plainly(
    score: Score, objective: Callable[..., Outcome], batch: Batch, encode: Encode, _: torch.Tensor
) -> Outcome:
    return objective(batch, encode, score)
