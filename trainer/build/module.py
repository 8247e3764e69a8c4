"""The optimizer settings and the Lightning module of a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from trainer.build import hardware
from trainer.build.families.family import Evaluate
from trainer.build.families.registry import family_of
from trainer.data.order import steps_for_passes
from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadData
from trainer.microbatches import MicroBatching
from trainer.models.encoder import Encoder
from trainer.models.parts.rounded import round_frozen_weights
from trainer.modules.optimizer import OptimizerSettings
from trainer.modules.retriever import Retriever
from trainer.modules.validation_times import ValidationTimes
from trainer.objectives.teachers import Teacher
from trainer.recipe.schema.families import Recipe
from trainer.recipe.schema.training import OptimizationSection
from trainer.retrieval.encoding.encode import AUTOCAST_DTYPES
from trainer.strategies.machine.plan import SINGLE, Plan

EARLY_VALIDATIONS = 3
"""The number of validations before the first regular one, at quarters of that time. A fine-tuned
model learns most in the first pass, and on few data it can be past its best before its end.
"""
MOST_EARLY_COST = 0.05
"""The largest cost of all early validations, as a share of the cost of the training."""
TRAINING_COST = 3
"""The cost of training on a document, where that of encoding it is 1: the forward pass, and a
backward pass of twice as many operations.
"""


def optimizer_settings(settings: OptimizationSection, total_steps: int) -> OptimizerSettings:
    """Returns the optimizer settings; missing rates are the main one, and warm-up is in steps."""
    warmup = (
        settings.warmup_steps
        if settings.warmup_steps is not None
        else round(settings.warmup_ratio * total_steps)
    )
    return OptimizerSettings(
        learning_rate=settings.learning_rate,
        head_learning_rate=settings.head_learning_rate or settings.learning_rate,
        temperature_learning_rate=settings.temperature_learning_rate or settings.learning_rate,
        weight_decay=settings.weight_decay,
        schedule=settings.schedule,
        warmup_steps=min(warmup, total_steps),
        total_steps=total_steps,
    )


def total_steps(settings: OptimizationSection, samples: int) -> int:
    """Returns the number of optimizer steps: `max_steps`, or those of `epochs` passes and at least
    `min_steps`.

    The last batch is filled with rows of a further pass. Raises BadData when the rows do not fill
    one batch.
    """
    if samples < settings.batch_size:
        raise BadData(
            f"{samples} training rows do not fill one batch of {settings.batch_size}; "
            + (
                f"give more rows, or set optimization.batch_size to at most {samples}"
                if samples > 1
                else "give at least two rows"
            )
        )
    steps = steps_for_passes(samples, settings.batch_size, settings.epochs)
    return settings.max_steps or max(steps, settings.min_steps or 0)


def validation_times(
    run: Recipe, samples: int, steps: int, validation: RetrievalSet
) -> ValidationTimes:
    """Returns when a run validates: as often as the recipe says, or once per pass over the rows,
    and up to EARLY_VALIDATIONS times more before the first of these. Where `min_steps` adds passes,
    it validates as many times as without them, further apart.

    Early validations may cost MOST_EARLY_COST of the training, without added passes. The cost is
    counted in documents, so that the times depend on recipe and data, never on the machine.
    """
    if (every_steps := run.validation.every_steps) is not None:
        return ValidationTimes(min(every_steps, steps), steps)
    optimization, batch_size = run.optimization, run.optimization.batch_size
    every_steps = min(steps_for_passes(samples, batch_size, 1), steps)
    own_steps = steps
    if optimization.max_steps is None:
        every_steps = max(every_steps, -(-steps // optimization.epochs))
        own_steps = min(steps, steps_for_passes(samples, batch_size, optimization.epochs))
    training = TRAINING_COST * own_steps * batch_size * (1 + run.negatives_per_query)
    one_validation = family_of(run).documents_per_validation(run, validation)
    early_count = min(EARLY_VALIDATIONS, int(MOST_EARLY_COST * training / one_validation))
    return ValidationTimes(every_steps, steps, early_count)


def lightning_module(
    run: Recipe,
    encoder: Encoder,
    steps: int,
    plan: Plan = SINGLE,
    teachers: Sequence[Teacher] = (),
) -> Retriever:
    """Returns the Lightning module that trains an encoder with its `teachers`
    (`trainer.build.students.load_teachers`).
    """
    family = family_of(run)
    learning = family.learning(run, encoder, teachers, steps)
    _round_frozen_weights(run, encoder, plan)
    tokens, kept_tokens = hardware.micro_batching(
        run.machine, encoder.to(hardware.device(run.machine)), plan
    )
    settings = optimizer_settings(run.optimization, steps)
    return Retriever(
        encoder,
        MicroBatching(
            family.encode(run, encoder),
            tokens,
            kept_tokens,
            run.seed,
            encoder.is_padded,
            encoder.pack,
        ),
        learning.objective,
        learning.temperature,
        optimizer=replace(settings, is_fused=hardware.precision(run.machine) != "fp16"),
        validate=partial(_validation_metrics, family.evaluate(run), encoder),
        head=learning.head,
        is_head=learning.is_head,
        check=learning.check,
    )


def _round_frozen_weights(run: Recipe, encoder: Encoder, plan: Plan) -> None:
    """Rounds weights that LoRA leaves as they are to the run's precision.

    DoRA needs their exact norms. FSDP2 and ZeRO expect one format for all weights.
    """
    dtype = AUTOCAST_DTYPES.get(hardware.precision(run.machine))
    tuning = run.model.tuning
    is_plain_lora = tuning.kind == "lora" and not tuning.dora
    if dtype is not None and is_plain_lora and plan.is_replicated:
        round_frozen_weights(encoder.backbone, dtype)


def _validation_metrics(
    evaluate: Evaluate, encoder: Encoder, held_out: RetrievalSet
) -> Mapping[str, float]:
    result = evaluate(encoder, held_out, name="validation")
    means = {name: float(values.mean()) for name, values in result.metrics.items()}
    return means | result.figures
