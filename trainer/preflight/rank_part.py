"""The work of each rank in the check of the gradient."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.batch import Batch, identity
from trainer.build import hardware, students
from trainer.build.families.registry import build_model, family_of
from trainer.build.module import lightning_module
from trainer.collectives import on_first_rank, rank, ranks
from trainer.data.order import own_part
from trainer.data.rows import Row, Rows
from trainer.models.encoder import Encoder
from trainer.recipe.load import load_recipe
from trainer.recipe.schema.families import Recipe
from trainer.runtime.attempts import write_json
from trainer.strategies.machine.environment import plan_from_environment
from trainer.strategies.machine.nodes import check_nodes
from trainer.strategies.machine.own_rank import is_first_rank, local_rank
from trainer.strategies.machine.plan import check_requirements
from trainer.strategies.probe import compare_gradients, one_step_gradient, plain_gradient
from trainer.strategies.process_group import process_group

ROWS, LIKENESS, NODES = "rows.json", "likeness.json", "nodes.json"
"""Files in the folder of the probe: the input of the ranks, and the results of the first rank."""


def take_part(path: Path, overrides: Sequence[str], folder: Path) -> None:
    """Runs one step with the strategy of the launcher.

    Before the process group is started, the first rank also computes the gradient of the whole
    batch alone, like a single process. It writes the comparison of both gradients.
    """
    plan = plan_from_environment(os.environ)
    check_requirements(plan)
    recipe = _exact(hardware.on_machine(load_recipe(path, overrides), plan))
    hardware.prepare_machine(recipe.machine)
    device = hardware.accelerator(recipe.machine)
    if device == "cuda":
        torch.cuda.set_device(local_rank(os.environ))
    encoder = build_model(recipe)
    _start_adapters(encoder)
    rows = json.loads((folder / ROWS).read_text(encoding="utf-8"))
    global_batch = _batch(rows, encoder, recipe)
    run_folder = Path(recipe.output) / recipe.name
    output = folder / f"rank-{os.environ.get('RANK', '0')}"
    recipe = _in_micro_batches(recipe, global_batch, output)
    # The teachers are used before the process group is started, because each rank uses them alone.
    teachers = students.load_teachers(recipe, Rows.of([_row(line) for line in rows]))
    module = lightning_module(recipe, encoder, 1, plan, teachers)
    reference = {}
    if is_first_rank(os.environ):
        module.to(hardware.device(recipe.machine))  # moves the temperature too
        encode = family_of(recipe).encode(recipe, encoder)
        reference = plain_gradient(
            module, lambda: module.objective(global_batch, encode, module.temperature()).loss
        )
    with process_group(plan, device):
        if plan.nodes > 1:
            _compare_nodes(run_folder, hardware.device(recipe.machine), folder)
        own_rows = [rows[int(row)] for row in own_part(np.arange(len(rows)), rank(), ranks())]
        gradient = one_step_gradient(module, _batch(own_rows, encoder, recipe), plan, device)
        on_first_rank(
            lambda: write_json(folder / LIKENESS, asdict(compare_gradients(gradient, reference)))
        )


def _compare_nodes(run_folder: Path, device: torch.device, folder: Path) -> None:
    """Writes findings about the nodes. Raises BadMachine on all ranks, naming each bad node."""
    # The checks themselves use GPU memory, on some GPUs more than on others.
    nodes = check_nodes(run_folder, device, compares_memory=False)
    findings = [("ok", nodes.summary), *(("warning", text) for text in nodes.warnings)]
    on_first_rank(lambda: (folder / NODES).write_text(json.dumps(findings), encoding="utf-8"))


def _exact(recipe: Recipe) -> Recipe:
    """Returns the recipe in float32 and without dropout, so that gradients can be compared.

    Negatives that a run would mine come from the data.
    """
    lora = recipe.model.tuning.kind == "lora"
    tuning = recipe.model.tuning.model_copy(update={"dropout": 0.0} if lora else {})
    model = recipe.model.model_copy(update={"dropout": 0.0, "tuning": tuning})
    data = recipe.data.model_copy(update={"negatives_per_query": recipe.negatives_per_query})
    machine = recipe.machine.model_copy(update={"precision": "fp32"})
    exact = recipe.model_copy(update={"model": model, "data": data, "machine": machine})
    return exact.without_refresh()


def _in_micro_batches(recipe: Recipe, batch: Batch, output: Path) -> Recipe:
    """Returns the recipe with kept micro-batches and with recomputed ones."""
    longest = int(max(batch.queries.lengths.max(), batch.documents.lengths.max()))
    machine = recipe.machine.model_copy(
        update={"micro_batch_tokens": longest, "kept_tokens": 2 * longest}
    )
    return recipe.model_copy(update={"machine": machine, "output": str(output)})


def _start_adapters(encoder: Encoder) -> None:
    """Sets LoRA's second factor to random values, the same on every rank.

    It is zero at the start, and then the gradient of the first factor is zero too.
    """
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.01)


def _batch(lines: Sequence[dict[str, Any]], encoder: Encoder, recipe: Recipe) -> Batch:
    positives = {identity(line["query"]): frozenset(line["known"]) for line in lines}
    return family_of(recipe).collate(recipe, encoder, positives)([_row(line) for line in lines])


def _row(line: dict[str, Any]) -> Row:
    return Row(
        line["query"],
        line["positive"],
        tuple(line["negatives"]),
        None if line["labels"] is None else tuple(line["labels"]),
    )
