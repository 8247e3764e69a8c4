"""The section `machine` of a recipe: device, precision and tokens per micro-batch.

It does not change what is learned.
"""

import logging
import os
import shutil
import warnings

import torch
from torch import nn

from trainer.errors import BadMachine
from trainer.models.encoder import Encoder
from trainer.recipe.schema.families import Recipe
from trainer.recipe.schema.machine import MachineSection
from trainer.retrieval.encoding.encode import autocast
from trainer.runtime import memory
from trainer.strategies import devices
from trainer.strategies.machine.plan import Plan, check_quantized_weights

CPU_TOKENS, GPU_TOKENS, MOST_GPU_TOKENS = 2048, 16384, 65536
"""Tokens per micro-batch: the activations fit in a CPU's cache, and use a whole GPU. On a GPU, a
small model has up to the largest number.
"""
PRODUCTS_PER_WEIGHT_TENSOR = 7e9
"""Multiplications per weight tensor and micro-batch that keep a GPU busy while its kernels are
started. An estimate for an H100 and not measured: forward they take 40 microseconds, and about four
kernels per weight tensor take 5 microseconds each to start. BERT-base has as many at 16 384 tokens.
"""
LONGEST_MEASURED = 8192
"""The largest number of tokens per text with which memory is measured."""


def prepare_machine(machine: MachineSection) -> None:
    """Sets the threads of this process, and silences messages of libraries."""
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", category=FutureWarning)
    warnings.filterwarnings(
        "ignore",
        message=(
            ".*(does not have many workers|treespec, LeafSpec|sync_dist=True|`srun` "
            "command|configure_gradient_clipping|torch.distributed is disabled).*"
        ),
    )


def on_machine(run: Recipe, plan: Plan) -> Recipe:
    """Returns the recipe with the device and precision of the machine file in section `machine`.

    Raises BadMachine when the recipe and the file give different values, or do not fit together.
    """
    machine = run.machine
    check_quantized_weights(plan, run.model.quantizes_4bit)
    if machine.compile_layers is True and (obstacle := compilation_obstacle(plan)):
        raise BadMachine(f"machine.compile_layers=true: {obstacle}, or set it to false")
    machine = machine.model_copy(
        update={
            "accelerator": _agreed_value("accelerator", machine.accelerator, plan.accelerator),
            "precision": _agreed_value("precision", machine.precision, plan.precision),
        }
    )
    return run.model_copy(update={"machine": machine})


def compilation_obstacle(plan: Plan) -> str | None:
    """Returns why layers cannot be compiled under this plan or on this machine, and what to do."""
    if not plan.is_replicated:
        return f"compiled layers were never tried under {plan.kind}; take a machine file for DDP"
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    if shutil.which(compiler) is None:
        return (
            f"compiling layers needs a C++ compiler, and there is no {compiler}; install one, name"
            " it in CXX"
        )
    return None


def _agreed_value(key: str, in_recipe: str, in_file: str | None) -> str:
    if in_file is None:
        return in_recipe
    if in_recipe not in ("auto", in_file):
        raise BadMachine(
            f"the recipe says machine.{key}={in_recipe}, but the machine file says {in_file}; set"
            f" machine.{key}=auto, or change the machine file"
        )
    return in_file


def accelerator(machine: MachineSection) -> devices.Accelerator:
    """Returns `cpu`, `cuda` or `mps`. Raises BadRecipe if this machine lacks the one requested."""
    return devices.find_accelerator(machine.accelerator)


def device(machine: MachineSection) -> torch.device:
    """Returns the device of this process; with several GPUs, the one that belongs to it."""
    return devices.own_device(machine.accelerator)


def precision(machine: MachineSection) -> devices.Precision:
    """Returns the precision of the recipe, or the best one for the hardware."""
    return devices.choose_precision(machine.precision, accelerator(machine))


def micro_batch_tokens(machine: MachineSection) -> int:
    """Returns the number of tokens per pass through the encoder."""
    if machine.micro_batch_tokens != "auto":
        return machine.micro_batch_tokens
    return CPU_TOKENS if accelerator(machine) == "cpu" else GPU_TOKENS


def micro_batching(machine: MachineSection, encoder: Encoder, plan: Plan) -> tuple[int, int]:
    """Returns the tokens per pass, and the tokens per step whose activations are kept.

    Values that are "auto" in the recipe are measured. The activations fit in the free memory, which
    the processes of this machine share. On a GPU, a micro-batch uses at most a quarter of it.
    """
    tokens = micro_batch_tokens(machine)
    is_gpu = encoder.device.type == "cuda"
    measures_tokens = machine.micro_batch_tokens == "auto" and is_gpu
    if machine.kept_tokens != "auto" and not measures_tokens:
        return tokens, machine.kept_tokens
    cost = document_activation_cost(machine, encoder)
    free_bytes = memory.free_activation_bytes(encoder, plan.ranks_per_node, plan.ranks_per_copy)
    if measures_tokens:
        longest = encoder.contract.document_max_length_tokens
        largest = cost.largest_micro_batch(free_bytes / 4)
        tokens = min(tokens_for_gpu(encoder), max(longest, largest))
    if machine.kept_tokens != "auto":
        return tokens, machine.kept_tokens
    # On a CPU, the share of the memory is so small that a recomputed micro-batch fits beside it.
    recomputed_bytes = cost.total(tokens, tokens) if is_gpu else 0.0
    return tokens, cost.fitting_tokens(free_bytes - recomputed_bytes, tokens)


def document_activation_cost(machine: MachineSection, encoder: Encoder) -> memory.ActivationCost:
    """Returns the bytes of activations of the longest documents, in the precision of the run."""
    length = min(encoder.contract.document_max_length_tokens, LONGEST_MEASURED)
    with autocast(encoder.device, precision(machine)):
        return memory.activation_cost(
            encoder, encoder, length, CPU_TOKENS, encoder.sample_documents
        )


def tokens_for_gpu(encoder: nn.Module) -> int:
    """Returns the tokens per micro-batch with which starting kernels does not limit the speed.

    The smaller the products with a weight tensor are per token, the more tokens there are.
    """
    kinds = (nn.Embedding, nn.EmbeddingBag)
    tables = {module.weight for module in encoder.modules() if isinstance(module, kinds)}
    sizes = [weight.numel() for weight in encoder.parameters() if weight not in tables]
    busy_tokens = PRODUCTS_PER_WEIGHT_TENSOR * len(sizes) / max(1, sum(sizes))
    return int(min(MOST_GPU_TOKENS, max(GPU_TOKENS, busy_tokens)))
