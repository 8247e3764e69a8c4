"""Checks the model of a run: it must load, and its tokenizer must fit."""

from trainer.build.families.registry import build_model, family_of
from trainer.models.encoder import Encoder
from trainer.models.files.locate import locate
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun


def check_model(findings: Findings, run: PlannedRun) -> Encoder | None:
    """Adds a finding about the model and returns the encoder, or None if it cannot be loaded."""
    settings = run.recipe
    with findings.catch("validation"):
        if settings.first_stage is not None:
            locate(settings.first_stage)
    with findings.catch("model"):
        encoder = build_model(settings)
        family_of(settings).check(settings, encoder)
        weights = sum(parameter.numel() for parameter in encoder.parameters())
        trained_weights = sum(
            parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
        )
        findings.add(
            "ok",
            "model",
            f"{settings.model.base_names}, {settings.model.tuning.kind}: {trained_weights:,} of"
            f" {weights:,} weights are trained; {encoder.output}, and the tokenizer fits;"
            f" {'padded texts' if encoder.is_padded else 'no padding'}",
        )
        return encoder
    return None
