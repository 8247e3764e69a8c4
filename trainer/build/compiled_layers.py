"""Whether layers are compiled: as the recipe says, or by what compiling saves in the steps that
remain.

A compilation takes about as long for a small model as for a large one. So `auto` first estimates
the time that the remaining steps spend in layers. Only if that is long, it compiles a copy of one
layer, and measures what that costs and saves.
"""

import math
from dataclasses import dataclass, replace

from trainer.batch import Texts
from trainer.build import hardware
from trainer.build.job import Job
from trainer.collectives import MAX, all_reduce_integers, integers_of_first_rank
from trainer.data.module import Steps
from trainer.models.parts.compiled import (
    LayerTimes,
    compile_layers,
    layer_times,
    plain_seconds_per_token,
)
from trainer.models.parts.lora import blocks
from trainer.progress import phase
from trainer.retrieval.encoding.encode import autocast
from trainer.runtime.console import say

LEAST_SECONDS = 1200.0
"""A trial is made if the remaining steps spend so long in layers. It takes about a minute, so it
costs at most a twentieth.
"""
MARGIN = 2.0
"""Layers are compiled if they save the time of that many compilations. Validation is compiled too,
and so is a first layer whose input has no gradient.
"""
_ESTIMATE_TOKENS, _SAMPLE_ROWS = 256, 64


@dataclass(frozen=True)
class Decision:
    """Whether layers are compiled, and why."""

    is_compiled: bool
    reason: str


def decide(times: LayerTimes, layer_tokens_per_step: float, steps: int) -> Decision:
    """Returns whether compiled layers save more in that many steps than compiling costs.

    >>> times = LayerTimes(0.0140, 0.0121, compilation_seconds=60.0, tokens=2048)
    >>> decide(times, layer_tokens_per_step=80 * 2048.0, steps=5000).reason
    '12.1 ms for 14 ms per layer, pays back after 789 of 5,000 steps'
    """
    needed_steps = MARGIN * times.steps_to_pay(layer_tokens_per_step)
    end = (
        "never pays back"
        if needed_steps == math.inf
        else f"pays back after {needed_steps:,.0f} of {steps:,} steps"
    )
    milliseconds = (
        f"{1000 * times.compiled_seconds:.3g} ms for {1000 * times.plain_seconds:.3g} ms per layer"
    )
    return Decision(needed_steps < steps, f"{milliseconds}, {end}")


def compile_if_faster(job: Job, steps: Steps, former: bool | None = None) -> bool:
    """Compiles layers if the recipe says so, or if it leaves that to a trial and they save time in
    these steps. Returns whether they are compiled.

    `former` is the decision of a continued run, which keeps it: compiled layers round differently.
    All ranks must call it. The first one measures.
    """
    setting = job.recipe.machine.compile_layers
    if setting == "auto":
        obstacle = hardware.compilation_obstacle(job.plan)
        has_obstacle = bool(all_reduce_integers([int(obstacle is not None)], MAX)[0])
        if former and has_obstacle:
            reason = obstacle or "another machine of the run cannot compile"
            say(f"warning: layers were compiled before, and are not now: {reason}")
        elif former:
            say("layers are compiled, as before")
        elif former is None and not has_obstacle and _is_measurable(job):
            with phase("measuring a layer"):
                former = bool(integers_of_first_rank(lambda: [_measure(job, steps)])[0])
        setting = bool(former) and not has_obstacle
    if setting:
        compile_layers(job.encoder)
    return setting


def _is_measurable(job: Job) -> bool:
    """Returns whether a trial is possible: one of two towers says nothing of the other."""
    return job.encoder.has_layers and not job.recipe.has_images


def _measure(job: Job, steps: Steps) -> bool:
    """Returns the decision, and says why."""
    rows = min(_SAMPLE_ROWS, steps.batch_size)
    sample_steps = replace(steps, batch_size=rows, bad_rows=set())
    refresher = steps.refresher
    sample = (
        sample_steps.batch(steps.first)
        if refresher is None
        else sample_steps.batch(steps.first, refresher.without_mining)
    )
    row_tokens = (len(sample.queries.tokens) + len(sample.documents.tokens)) / rows
    step_tokens = row_tokens * steps.batch_size / job.plan.ranks
    with autocast(job.encoder.device, hardware.precision(job.recipe.machine)):
        decision = _decide_by_trial(job, sample.documents, step_tokens, len(steps))
    say(f"layers were {'' if decision.is_compiled else 'not '}compiled: {decision.reason}")
    return decision.is_compiled


def _decide_by_trial(job: Job, texts: Texts, step_tokens: float, steps: int) -> Decision:
    encoder = job.encoder
    layer_tokens = step_tokens * len(blocks(encoder.backbone))
    seconds = plain_seconds_per_token(encoder, texts, _ESTIMATE_TOKENS) * layer_tokens * steps
    if seconds < LEAST_SECONDS:
        return Decision(
            False,
            f"{steps:,} steps spend about {seconds:,.0f} s in them, too little to try it",
        )
    tokens = min(hardware.micro_batch_tokens(job.recipe.machine), int(step_tokens))
    try:
        times = layer_times(encoder, texts, tokens)
    except RuntimeError as error:  # the compiler does not know such a layer
        return Decision(False, f"the compiler failed: {str(error).strip().splitlines()[0][:300]}")
    return decide(times, layer_tokens, steps)
