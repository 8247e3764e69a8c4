"""Estimates the memory of each rank: weights, gradients, optimizer state and activations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import nn

from trainer.build import hardware
from trainer.build.data_facts.lengths import Lengths
from trainer.models.encoder import Encoder
from trainer.preflight.findings import Findings
from trainer.preflight.planned_run import PlannedRun
from trainer.preflight.sizes import format_bytes
from trainer.recipe.schema.machine import MachineSection
from trainer.runtime import memory
from trainer.strategies.fully_sharded import transformer_blocks
from trainer.strategies.machine.plan import Plan


@dataclass(frozen=True)
class Need:
    """The bytes of one rank for one part, on its device or in the memory of the machine."""

    part: str
    amount: int
    on_machine: bool = False


def check_memory(
    findings: Findings,
    run: PlannedRun,
    encoder: Encoder,
    lengths: tuple[Lengths, Lengths] | None,
) -> None:
    """Adds findings about the memory that a rank needs and the memory that is free."""
    plan = run.plan
    if plan is None:
        return
    with findings.catch("memory"):
        machine = run.recipe.machine if run.plan_fits_here else _on_this_cpu(run.recipe.machine)
        encoder.to(hardware.device(machine))
        needs = weight_needs(plan, encoder)
        if lengths is not None:
            needs.append(_activations(run, plan, machine, encoder, lengths))
        text = f"about {format_bytes(sum(need.amount for need in needs))} per rank"
        text += f" ({largest_first(needs)})"
        if run.plan_fits_here:
            _compare_with_free(findings, plan, encoder, needs, text)
        else:
            findings.add(
                "warning", "memory", f"{text}; the free memory cannot be checked on this machine"
            )


def _on_this_cpu(machine: MachineSection) -> MachineSection:
    """Returns settings with which this machine can estimate the memory of another machine."""
    precision = "fp32" if machine.precision == "fp16" else machine.precision
    return machine.model_copy(update={"accelerator": "cpu", "precision": precision})


def _compare_with_free(
    findings: Findings, plan: Plan, encoder: Encoder, needs: Sequence[Need], text: str
) -> None:
    # The weights of this process are freed before the ranks start.
    loaded_bytes = sum(parameter.nbytes for parameter in encoder.parameters())
    on_cpu = encoder.device.type == "cpu"
    on_machine = sum(need.amount for need in needs if need.on_machine or on_cpu)
    on_device = sum(need.amount for need in needs) - on_machine
    for amount, place, device in (
        (on_device, "on its GPU", encoder.device),
        (on_machine, "in the machine's memory", torch.device("cpu")),
    ):
        if not amount:
            continue
        free = memory.available_bytes(device, plan.ranks_per_node)
        free += loaded_bytes * (device.type == encoder.device.type)
        comparison = f"{text}; {format_bytes(free)} are free for each rank {place}"
        if amount <= free:
            findings.add("ok", "memory", comparison)
        else:
            findings.add(
                "wrong",
                "memory",
                f"{comparison}. Divide the weights among more ranks (FSDP2, ZeRO-3), train with"
                " model.tuning.kind=lora, or lower machine.micro_batch_tokens",
            )


def _activations(
    run: PlannedRun,
    plan: Plan,
    machine: MachineSection,
    encoder: Encoder,
    lengths: tuple[Lengths, Lengths],
) -> Need:
    """Estimates the activations that a rank keeps for the backward pass, from one micro-batch.

    The result is at least the activations of one micro-batch.
    """
    queries, documents = lengths
    documents_per_query = documents.texts / queries.texts
    tokens_per_query = queries.mean_tokens + documents_per_query * documents.mean_tokens
    step_tokens = run.recipe.optimization.batch_size // plan.ranks * tokens_per_query
    limit_is_known = run.plan_fits_here or machine.kept_tokens != "auto"
    micro_batch, limit = hardware.micro_batching(machine, encoder, plan)
    tokens = max(
        min(step_tokens, limit if limit_is_known else step_tokens), min(step_tokens, micro_batch)
    )
    note = "" if limit_is_known else ", if memory allows it"
    part = f"activations ({tokens:,.0f} of the {step_tokens:,.0f} tokens of a step{note})"
    cost = hardware.document_activation_cost(machine, encoder)
    return Need(part, int(cost.total(math.ceil(tokens), micro_batch)))


def weight_needs(plan: Plan, encoder: nn.Module) -> list[Need]:
    """Returns the needs of one rank for weights, gradients and AdamW's two moments.

    All are float32, except for fp16 with DeepSpeed. ZeRO also keeps a copy of its share of the
    trained weights. FSDP2 and ZeRO-3 need memory for their share and for gathered weights.
    """
    weights = sum(parameter.numel() for parameter in encoder.parameters())
    trained_weights = sum(
        parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad
    )
    match plan.kind:
        case "single" | "ddp":
            return [
                Need("weights", 4 * weights),
                Need("gradients", 4 * trained_weights),
                Need("optimizer state", 8 * trained_weights),
            ]
        case "fsdp2":
            gathered_weights = _gathered_at_once(encoder) if plan.reshard_after_forward else weights
            return [
                Need("weights", 4 * (_share(plan, weights) + gathered_weights)),
                Need("gradients", 4 * _share(plan, trained_weights)),
                Need("optimizer state", 8 * _share(plan, trained_weights)),
            ]
        case "zero1" | "zero2" | "zero3":
            return _zero_needs(plan, weights, trained_weights)
        case _:
            assert_never(plan.kind)


def _zero_needs(plan: Plan, weights: int, trained_weights: int) -> list[Need]:
    zero = (plan.deepspeed or {}).get("zero_optimization", {})
    offloads_state, offloads_weights = "offload_optimizer" in zero, "offload_param" in zero
    width = 2 if plan.precision == "fp16" else 4
    share = _share(plan, trained_weights)
    gradients = trained_weights if plan.kind == "zero1" else share
    needs = [
        Need("gradients", width * gradients, offloads_state),
        Need("optimizer state", 12 * share, offloads_state),
    ]
    if plan.kind != "zero3":
        return [Need("weights", width * weights), *needs]
    live_weights = int(float(zero.get("stage3_max_live_parameters", 1e9)))
    return [
        Need("shared weights", width * _share(plan, weights), offloads_weights),
        Need("gathered weights", width * min(weights, live_weights)),
        *needs,
    ]


def _share(plan: Plan, weights: int) -> int:
    """Returns the number of weights per rank if they are divided evenly, rounded up."""
    return -(-weights // (plan.ranks_per_copy if plan.kind == "fsdp2" else plan.ranks))


def _gathered_at_once(encoder: nn.Module) -> int:
    """Returns the number of weights that FSDP2 gathers at once.

    These are the weights outside of blocks, one block, and the next block that is being gathered.
    """
    sizes = [
        sum(parameter.numel() for parameter in block.parameters())
        for block in transformer_blocks(encoder)
    ]
    outside = sum(parameter.numel() for parameter in encoder.parameters()) - sum(sizes)
    return outside + 2 * max(sizes, default=0)


def largest_first(needs: Sequence[Need]) -> str:
    """Describes the parts, beginning with the largest."""
    words = [
        f"{format_bytes(need.amount)} for {need.part}"
        + (" in the machine's memory" if need.on_machine else "")
        for need in sorted(needs, key=lambda need: -need.amount)
    ]
    return "; ".join([f"{words[0]}, the largest part", *words[1:]])
