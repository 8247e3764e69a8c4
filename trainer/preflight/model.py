"""Checks the model of a run: it must load, and its tokenizer must fit."""

from trainer.build import students
from trainer.build.module import encoder_of
from trainer.models.encoder import Encoder
from trainer.models.files.locate import locate
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun
from trainer.recipe.schema.families import CrossEncoderRecipe


def check_model(findings: Findings, run: PlannedRun) -> Encoder | None:
    """Adds a finding about the model and returns the encoder, or None if it cannot be loaded."""
    settings = run.recipe
    with findings.catch("validation"):
        if isinstance(settings, CrossEncoderRecipe) and settings.validation.first_stage is not None:
            locate(settings.validation.first_stage)
    with findings.catch("model"):
        encoder = encoder_of(settings)
        students.check_whole(settings, encoder)
        weights = sum(parameter.numel() for parameter in encoder.parameters())
        trained_weights = sum(
            parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
        )
        output = (
            "one score per pair"
            if isinstance(settings, CrossEncoderRecipe)
            else f"vectors of {encoder.dimensions} dimensions"
        )
        findings.add(
            "ok",
            "model",
            f"{settings.model.backbone}, {settings.model.tuning.kind}: {trained_weights:,} of"
            f" {weights:,} weights are trained; {output}, and the tokenizer fits",
        )
        return encoder
    return None
