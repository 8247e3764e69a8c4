"""Builds the objective of a model that gives vectors from its settings."""

from collections.abc import Sequence
from typing import assert_never

from torch import nn

from trainer.modules.retriever import Temperature
from trainer.objectives.candidates import (
    Cosent,
    Distillation,
    EmbeddingScores,
    MarginMse,
    Triplet,
)
from trainer.objectives.contrastive import Contrastive
from trainer.objectives.exclusions import Exclusion
from trainer.objectives.hard_negatives import Hardness
from trainer.objectives.objective import Objective
from trainer.objectives.sigmoid import Bias, Sigmoid
from trainer.recipe.schema.objective import (
    ContrastiveObjective,
    CosentObjective,
    DistillationObjective,
    ImageTextObjective,
    MarginMseObjective,
    SigmoidObjective,
    TripletObjective,
    VectorObjective,
)
from trainer.scores import Score, dot


def build_objective(
    settings: VectorObjective | ImageTextObjective,
    score: Score = dot,
    exclusions: Sequence[Exclusion] = (),
) -> tuple[Objective, Temperature]:
    """Returns the objective with the score of the family, and its temperature."""
    constant_temperature = Temperature(1.0, is_learned=False)
    match settings:
        case ContrastiveObjective():
            hardness = Hardness(**settings.hardness.model_dump()) if settings.hardness else None
            objective = Contrastive(score, settings.symmetric, tuple(exclusions), hardness)
            return objective, Temperature(settings.temperature, settings.learn_temperature)
        case SigmoidObjective():
            bias = Bias(settings.bias, settings.learn_temperature)
            sigmoid = Sigmoid(score, bias, tuple(exclusions))
            return sigmoid, Temperature(settings.temperature, settings.learn_temperature)
        case DistillationObjective():
            distillation = Distillation(EmbeddingScores(score), settings.teacher_temperature)
            return distillation, Temperature(settings.temperature, is_learned=False)
        case MarginMseObjective():
            return MarginMse(EmbeddingScores(score)), constant_temperature
        case CosentObjective():
            return Cosent(EmbeddingScores(score)), Temperature(
                settings.temperature, is_learned=False
            )
        case TripletObjective():
            return Triplet(EmbeddingScores(score), settings.margin), constant_temperature
        case _:
            assert_never(settings)


def learned_bias(objective: Objective) -> nn.Module | None:
    """Returns the bias that an objective trains, if it has one."""
    return objective.bias if isinstance(objective, Sigmoid) else None
