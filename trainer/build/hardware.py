"""What of a recipe this machine decides: device, precision, and how much goes through the encoder
at once. Changes nothing that is learned.
"""

import logging
import warnings

import torch

from trainer.batch import Texts
from trainer.errors import BadMachine, BadRecipe
from trainer.models.encoder import Encoder
from trainer.recipe import schema as recipe
from trainer.retrieval.vectors.encode import Precision, autocast
from trainer.runtime import memory
from trainer.strategies.environment import Plan

CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Padded tokens of a micro-batch: on a CPU, activations that stay in the cache; on a GPU, enough to
fill it.
"""

LONGEST_MEASURED = 8192
"""Tokens of the text that memory is measured with; a model may take longer ones."""


def prepare_machine(machine: recipe.Machine) -> None:
    """Threads of this process, and libraries that talk too much; changes nothing that is
    learned.
    """
    if machine.threads is not None:
        torch.set_num_threads(machine.threads)
    logging.getLogger("pytorch_lightning").setLevel(
        logging.WARNING
    )  # its greetings; what matters is in our own lines
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", category=FutureWarning)
    warnings.filterwarnings(
        "ignore",
        message=(
            ".*(does not have many workers|treespec, LeafSpec|sync_dist=True|`srun` "
            "command|configure_gradient_clipping).*"
        ),
    )


def on_machine(run: recipe.Recipe, plan: Plan) -> recipe.Recipe:
    """The recipe with what the machine file decides filled into its section `machine`. Raises
    BadMachine where both say, and differ.
    """
    said = {"accelerator": plan.accelerator, "precision": plan.precision}
    for key, value in said.items():
        wish = getattr(run.machine, key)
        if value is not None and wish not in ("auto", value):
            raise BadMachine(
                f"the recipe says machine.{key}={wish} and the machine file {value}; set "
                f"machine.{key}=auto, or change the machine file"
            )
    filled = run.machine.model_copy(
        update={key: value for key, value in said.items() if value is not None}
    )
    return run.model_copy(update={"machine": filled})


def accelerator(machine: recipe.Machine) -> str:
    """`cpu`, `cuda` or `mps`. Raises BadRecipe when the recipe asks for what this machine lacks."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if machine.accelerator == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not there[machine.accelerator]:
        raise BadRecipe(
            f"machine.accelerator={machine.accelerator}, but PyTorch finds no such device here; "
            f"use machine.accelerator=auto or cpu, "
            "or install a PyTorch build for the device"
        )
    return machine.accelerator


def device(machine: recipe.Machine) -> torch.device:
    """Where this process computes: of several GPUs the one that is its own."""
    kind = accelerator(machine)
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


def precision(machine: recipe.Machine) -> Precision:
    """What the recipe says, or bf16 where the hardware has instructions for it, else fp32."""
    device = accelerator(machine)
    if machine.precision == "fp16" and device == "cpu":
        raise BadRecipe(
            "machine.precision=fp16 needs a GPU: CPUs have no fast fp16 training; use bf16 or fp32"
        )
    if machine.precision != "auto":
        return machine.precision
    match device:
        case "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        case "cpu":
            return (
                "bf16"
                if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
                else "fp32"
            )
        case _:
            return "fp32"


def micro_batch_tokens(machine: recipe.Machine) -> int:
    """Padded tokens that go through the encoder at once."""
    if machine.micro_batch_tokens != "auto":
        return machine.micro_batch_tokens
    return CPU_TOKENS if accelerator(machine) == "cpu" else GPU_TOKENS


def micro_batching(machine: recipe.Machine, encoder: Encoder, processes: int) -> tuple[int, int]:
    """Padded tokens that go through the encoder at once, and of how many in a step the activations
    are kept: what the recipe leaves open is measured.

    Kept is what fits in the memory that is there, shared among the processes of this machine. On a
    GPU a micro-batch is at most a quarter of that.
    """
    if machine.kept_tokens == "auto" or (
        machine.micro_batch_tokens == "auto" and encoder.device.type == "cuda"
    ):
        length = min(encoder.contract.document_max_length_tokens, LONGEST_MEASURED)
        count = max(
            1, CPU_TOKENS // length
        )  # few tokens would pay for copies of the weights that autocast makes
        texts = Texts.of([[0] * length] * count, range(count))
        with autocast(encoder.device, precision(machine)):
            fits = memory.kept_tokens(encoder, encoder, texts, processes)
    kept = fits if machine.kept_tokens == "auto" else machine.kept_tokens
    tokens = micro_batch_tokens(machine)
    if machine.micro_batch_tokens == "auto" and encoder.device.type == "cuda":
        tokens = min(tokens, max(encoder.contract.document_max_length_tokens, fits // 4))
    return tokens, kept
