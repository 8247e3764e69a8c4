"""The only file that knows of ranks.

Ranks keep one convention: **every rank computes the same loss, that of the whole global batch.**
The backward pass of a collective is its adjoint, so the gradient a rank finds for the weights is
`ranks` times its own share of the whole; the mean over ranks that DDP, FSDP2 and DeepSpeed take
anyway makes of these the sum of the shares, which is the gradient of one process (law 2).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.errors import BadMachine, OtherRankFailed
from trainer.scores import exact

Result = TypeVar("Result")
MAX, MIN, SUM = distributed.ReduceOp.MAX, distributed.ReduceOp.MIN, distributed.ReduceOp.SUM
_all_gather = (
    getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
)  # renamed in torch 2.13
_reduce_scatter = (
    getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
)


def ranks() -> int:
    """How many processes share a batch."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def own_turns(tasks: int) -> range:
    """The numbers of this rank's tasks, where the ranks take turns."""
    return range(rank(), tasks, ranks())


def own_rounds(tasks: int) -> range:
    """As `own_turns`, but every rank has the same number of turns. Those from `tasks` on are
    surplus: a rank takes them only because the others wait for it.
    """
    rounds = -(-tasks // ranks())
    return range(rank(), rounds * ranks(), ranks())


def all_rows(rows: int) -> int:
    """How many rows all ranks have together, each with `rows` of them."""
    return rows * ranks()


def first_row(rows: int) -> int:
    """The place of this rank's first row among those of all ranks, each with `rows` of them."""
    return rows * rank()


def own_rows(rows: int) -> slice:
    """The places of this rank's rows among those of all ranks, each with `rows` of them."""
    return slice(first_row(rows), first_row(rows) + rows)


@dataclass
class Traffic:
    """Bytes that this rank has received through `gather` and its backward pass."""

    forward: int = 0
    backward: int = 0


TRAFFIC = Traffic()


def gather(
    values: Shaped[Tensor, "row ..."], padding: float | int | None = None
) -> Shaped[Tensor, "all_rows ..."]:
    """The rows of all ranks, in rank order; every rank must give the same number. With gradient.

    Given `padding`, further axes may differ between ranks (each has its own longest text) and are
    filled up with it. Floating point numbers travel in float32 or better.
    """
    if ranks() == 1:
        return values
    if values.dtype == torch.bool:
        return gather(values.byte()).bool()
    there = exact(values) if values.is_floating_point() else values
    there = there.to(_device())
    if padding is not None:
        widths = all_reduce_integers(list(there.shape[1:]), MAX)
        room = [
            pad
            for width, own in zip(reversed(widths), reversed(there.shape[1:]), strict=True)
            for pad in (0, width - own)
        ]
        there = functional.pad(there, room, value=padding)
    return _Gather.apply(there).to(values.device)


class _Gather(torch.autograd.Function):
    """All-gather; its adjoint adds up what all ranks say about one rank's rows and sends it
    there.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        everything = values.new_empty(ranks() * len(values), *values.shape[1:])
        _all_gather(everything, values.contiguous())
        TRAFFIC.forward += (ranks() - 1) * values.nbytes
        return everything

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(len(gradient) // ranks(), *gradient.shape[1:])
        _reduce_scatter(own, gradient.contiguous())
        TRAFFIC.backward += (ranks() - 1) * own.nbytes
        return own


def all_reduce_integers(numbers: list[int], operation: Any) -> list[int]:
    """The elementwise maximum, minimum or sum of whole numbers over the ranks; the numbers
    themselves on one.
    """
    if ranks() == 1:
        return numbers
    together = torch.tensor(numbers, device=_device())
    distributed.all_reduce(together, operation)
    return together.tolist()


def sum_over_ranks(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The sum over ranks, without gradient; `values` may be overwritten."""
    if ranks() > 1:
        distributed.all_reduce(values)
    return values


def gather_texts(things: Sequence[str]) -> list[str]:
    """The texts of all ranks, in rank order."""
    if ranks() == 1:
        return list(things)
    everything: list[Any] = [None] * ranks()
    distributed.all_gather_object(everything, list(things))
    return [thing for of_rank in everything for thing in of_rank]


def on_first_rank(action: Callable[[], Result]) -> Result | None:
    """What `action` returns on the first rank, None on the others, which wait for it. Where it
    fails, all ranks end.
    """
    return on_every_rank(lambda: action() if rank() == 0 else None)


def on_every_rank(action: Callable[[], Result]) -> Result:
    """What `action`, which waits for no other rank, returns on this one. All wait for the last;
    where one fails, all end.
    """
    error, result = None, None
    try:
        result = action()
    except Exception as raised:  # noqa: BLE001 - raised again below, once the others know
        error = raised
    said = gather_texts(["" if error is None else f"{type(error).__name__}: {error}"])
    if error is not None:
        raise error
    if said[0]:
        raise OtherRankFailed("the first rank has failed; its message says why")
    if any(said):
        number, message = next((number, message) for number, message in enumerate(said) if message)
        raise OtherRankFailed(
            f"rank {number} has failed: {message}"
        )  # told here, since the launcher may end that rank before it has spoken
    return cast(Result, result)


def check_same(text: str, what: str) -> None:
    """Raises BadMachine on every rank where ranks were given different texts."""
    numbers = [int(byte) for byte in hashlib.sha256(text.encode()).digest()]
    if all_reduce_integers(numbers, MIN) != all_reduce_integers(numbers, MAX):
        raise BadMachine(
            f"the ranks were started with different versions of the {what}; start all of them with"
            " the same command and the same files"
        )


def _device() -> torch.device:
    """Where the process group can send from."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if distributed.get_backend() == "nccl"
        else torch.device("cpu")
    )
