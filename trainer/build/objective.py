"""A recipe's objective: which type it is, with which settings."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import assert_never

from trainer.build import hardware
from trainer.errors import BadRecipe
from trainer.microbatches import in_microbatches
from trainer.models.dense import read_encoder
from trainer.models.encoder import Encoder
from trainer.modules.retriever import Temperature
from trainer.objectives.candidates import (
    Cosent,
    Distillation,
    EmbeddingScores,
    MarginMse,
    Triplet,
)
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.exclusions import (
    Exclusion,
    Outscoring,
    RepeatedPositives,
    TaughtBetter,
)
from trainer.objectives.hard_negatives import Hardness
from trainer.objectives.matryoshka import once_per_batch
from trainer.objectives.objective import Objective
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


def build_objective(
    settings: VectorObjective, score: Score = dot, exclusions: Sequence[Exclusion] = ()
) -> tuple[Objective, Temperature]:
    """The objective with its settings and the family's score, and its temperature."""
    fixed = Temperature(1.0, is_learned=False)
    match settings:
        case ContrastiveObjective():
            hardness = Hardness(**settings.hardness.model_dump()) if settings.hardness else None
            objective = Contrastive(score, settings.symmetric, tuple(exclusions), hardness)
            if isinstance(settings, ColBERTContrastiveObjective) and settings.xtr_top_k is not None:
                objective = replace(objective, score=xtr, xtr_top_k=settings.xtr_top_k)
            return objective, Temperature(settings.temperature, settings.learn_temperature)
        case DistillationObjective():
            distillation = Distillation(EmbeddingScores(score), settings.teacher_temperature)
            return distillation, Temperature(settings.temperature, is_learned=False)
        case MarginMseObjective():
            return MarginMse(EmbeddingScores(score)), fixed
        case CosentObjective():
            return Cosent(EmbeddingScores(score)), Temperature(
                settings.temperature, is_learned=False
            )
        case TripletObjective():
            return Triplet(EmbeddingScores(score), settings.margin), fixed
        case _:
            assert_never(settings)


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


def build_exclusions(run: VectorRecipe, encoder: Encoder) -> list[Exclusion]:
    """What leaves out negatives that are probably right. Raises BadRecipe for a guide with another
    tokenizer than the encoder's.
    """
    exclusions: list[Exclusion] = []
    objective = run.objective
    if not isinstance(objective, ContrastiveObjective):
        return exclusions
    if run.refresh is not None:
        exclusions.append(RepeatedPositives())
    if isinstance(objective, BiEncoderContrastiveObjective) and objective.guide is not None:
        guide = read_encoder(objective.guide).to(hardware.device(run.machine)).requires_grad_(False)
        if guide.contract.tokenizer_fingerprint != encoder.contract.tokenizer_fingerprint:
            raise BadRecipe(
                f"objective.guide={objective.guide} cuts texts into other tokens than "
                f"{run.model.backbone}, and a batch holds the tokens of one; "
                "take a guide with the same tokenizer, such as a larger model of the same family "
                "or the model before training"
            )
        in_parts = in_microbatches(guide, hardware.micro_batch_tokens(run.machine))
        exclusions.append(once_per_batch(Outscoring(in_parts, objective.guide_margin)))
    if objective.teacher_margin is not None:
        exclusions.append(TaughtBetter(objective.teacher_margin))
    return exclusions
