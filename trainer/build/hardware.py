"""What of a recipe this machine decides: device, precision, and how much goes through the encoder
at once. Changes nothing that is learned.
"""

import logging
import warnings

import torch

from trainer.batch import Texts
from trainer.errors import BadMachine
from trainer.models.encoder import Encoder
from trainer.recipe import schema as recipe
from trainer.retrieval.vectors.encode import Precision, autocast
from trainer.runtime import memory
from trainer.strategies import devices
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


def accelerator(machine: recipe.Machine) -> devices.Accelerator:
    """`cpu`, `cuda` or `mps`. Raises BadRecipe when the recipe asks for what this machine lacks."""
    return devices.find_accelerator(machine.accelerator)


def device(machine: recipe.Machine) -> torch.device:
    """Where this process computes: of several GPUs the one that is its own."""
    return devices.own_device(machine.accelerator)


def precision(machine: recipe.Machine) -> Precision:
    """The precision that the recipe names, or the one that suits the hardware."""
    return devices.choose_precision(machine.precision, accelerator(machine))


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
