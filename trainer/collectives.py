"""Communication between ranks, and the arithmetic of ranks. No other file does arithmetic of ranks.

Every rank computes the same loss, which is the loss of the whole global batch. The backward pass of
a collective is its adjoint, so each rank computes `ranks` times its own share of the gradient. DDP,
FSDP2 and DeepSpeed then take the mean over ranks. The result is the sum of the shares, which is the
gradient of a single process (law 2).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional

from trainer.errors import NearfarError, OtherRankFailed
from trainer.scores import exact
from trainer.stopping import Stop, in_step, request_stop, requested_stop

ReturnValue = TypeVar("ReturnValue")
MAX, MIN, SUM = distributed.ReduceOp.MAX, distributed.ReduceOp.MIN, distributed.ReduceOp.SUM
_all_gather = (
    getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
)  # renamed in torch 2.13
_reduce_scatter = (
    getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
)


class Control:
    """The group for agreements and for waiting: on gloo, with its own long time-out.

    NCCL ends a process whose collective takes ten minutes, and waiting for the first rank can take
    longer. None: the default group.
    """

    group: "distributed.ProcessGroup | None" = None


def ranks() -> int:
    """Returns the number of processes that share a batch."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Returns the number of this process among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def own_turns(tasks: int) -> range:
    """Returns the numbers of this rank's tasks if the ranks take turns."""
    return range(rank(), tasks, ranks())


def own_rounds(tasks: int) -> range:
    """Like `own_turns`, but every rank has the same number of turns.

    Numbers from `tasks` on are surplus. A rank takes them only because the other ranks wait for it.
    """
    rounds = -(-tasks // ranks())
    return range(rank(), rounds * ranks(), ranks())


def all_rows(rows: int) -> int:
    """Returns the number of rows of all ranks together if each rank has `rows`."""
    return rows * ranks()


def first_row(rows: int) -> int:
    """Returns the place of this rank's first row among those of all ranks, if each has `rows`."""
    return rows * rank()


def own_rows(rows: int) -> slice:
    """Returns the places of this rank's rows among those of all ranks, if each has `rows`."""
    return slice(first_row(rows), first_row(rows) + rows)


@dataclass
class Traffic:
    """Bytes that this rank has received through collectives with gradient: forward, backward."""

    forward: int = 0
    backward: int = 0


TRAFFIC = Traffic()


def gather(
    values: Shaped[Tensor, "row ..."], padding: float | int | None = None
) -> Shaped[Tensor, "all_rows ..."]:
    """Returns the rows of all ranks, in rank order and with gradient.

    Every rank must give the same number of rows. With `padding`, the other axes may differ between
    ranks (each rank has its own longest text) and are padded with that value. Floating point
    values are sent as float32 or better.
    """
    if ranks() == 1:
        return values
    if values.dtype == torch.bool:
        return gather(values.byte()).bool()
    own_values = exact(values) if values.is_floating_point() else values
    own_values = own_values.to(_device())
    if padding is not None:
        widths = all_reduce_integers(list(own_values.shape[1:]), MAX)
        room = [
            pad
            for width, own_width in zip(
                reversed(widths), reversed(own_values.shape[1:]), strict=True
            )
            for pad in (0, width - own_width)
        ]
        own_values = functional.pad(own_values, room, value=padding)
    return _Gather.apply(own_values).to(values.device)


class _Gather(torch.autograd.Function):
    """All-gather. Its adjoint sums the gradients of all ranks for one rank's rows on that rank."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values_of_all_ranks = values.new_empty(ranks() * len(values), *values.shape[1:])
        _all_gather(values_of_all_ranks, values.contiguous())
        TRAFFIC.forward += (ranks() - 1) * values.nbytes
        return values_of_all_ranks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own_gradient = gradient.new_empty(len(gradient) // ranks(), *gradient.shape[1:])
        _reduce_scatter(own_gradient, gradient.contiguous())
        TRAFFIC.backward += (ranks() - 1) * own_gradient.nbytes
        return own_gradient


def logsumexp_over_ranks(values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Returns log(sum of exp(values) over the ranks), with gradient."""
    if ranks() == 1:
        return values
    largest = values.detach().clone()
    distributed.all_reduce(largest, MAX)
    TRAFFIC.forward += _sum_bytes(largest)
    return largest + sum_with_gradient((values - largest).exp()).log()


def sum_with_gradient(values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Returns the sum over the ranks, with gradient."""
    return _Sum.apply(values) if ranks() > 1 else values


class _Sum(torch.autograd.Function):
    """The sum over ranks. It is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        TRAFFIC.forward += _sum_bytes(values)
        return sum_over_ranks(values.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        TRAFFIC.backward += _sum_bytes(gradient)
        return sum_over_ranks(gradient.clone(memory_format=torch.contiguous_format))


def _sum_bytes(values: Tensor) -> int:
    """Returns the bytes received by an all-reduce, which scatters sums and gathers them."""
    return 2 * (ranks() - 1) * values.nbytes // ranks()


def all_reduce_integers(numbers: list[int], operation: Any) -> list[int]:
    """Returns the elementwise maximum, minimum or sum of integers over the ranks."""
    if ranks() == 1:
        return numbers
    values = torch.tensor(numbers, device="cpu" if Control.group else _device())
    distributed.all_reduce(values, operation, group=Control.group)
    return values.tolist()


def sum_over_ranks(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Returns the sum over ranks, without gradient. `values` may be overwritten."""
    if ranks() > 1:
        distributed.all_reduce(values)
    return values


def gather_objects(value: Any, group: "distributed.ProcessGroup | None") -> list[Any]:
    """Returns the small objects of all ranks of a group, in rank order. A thread may call it with a
    group of its own.
    """
    if group is None:
        return [value]
    values: list[Any] = [None] * ranks()
    distributed.all_gather_object(values, value, group=group)
    return values


def gather_texts(texts: Sequence[str]) -> list[str]:
    """Returns the texts of all ranks, in rank order."""
    if ranks() == 1:
        return list(texts)
    texts_per_rank: list[Any] = [None] * ranks()
    distributed.all_gather_object(texts_per_rank, list(texts), group=Control.group)
    return [text for rank_texts in texts_per_rank for text in rank_texts]


def integers_of_first_rank(compute: Callable[[], Sequence[int]]) -> list[int]:
    """Returns on every rank the integers that the first one computes.

    The others may look later, or at a file system that is behind. If `compute` fails, an exception
    is raised on all ranks.
    """
    numbers = on_first_rank(compute) or []
    return [int(number) for number in gather_texts([str(int(number)) for number in numbers])]


def on_first_rank(action: Callable[[], ReturnValue]) -> ReturnValue | None:
    """Runs `action` on the first rank only and returns its result there, None on other ranks.

    The other ranks wait for it. If it fails, an exception is raised on all ranks.
    """
    return on_every_rank(lambda: action() if rank() == 0 else None)


def on_every_rank(action: Callable[[], ReturnValue]) -> ReturnValue:
    """Runs `action` on every rank and returns its result on this rank.

    All ranks wait for the slowest. If `action` fails on one rank, or follows a request to stop
    there, an exception is raised on all. `action` itself must not wait for other ranks.
    """
    error, result = None, None
    try:
        with in_step(with_others=False):
            result = action()
    except Exception as raised:  # noqa: BLE001 - raised again below, once the others know
        error = raised
    messages = gather_texts([_message(error)])
    if error is not None:
        raise error
    _raise_error_of_other_rank(messages)
    return cast(ReturnValue, result)


_STOP = "stop:"


def _message(error: Exception | None) -> str:
    """Returns what the other ranks must know about the error of this one."""
    if error is None:
        return ""
    stop = requested_stop()
    if stop and isinstance(error, NearfarError) and type(error) is type(stop.error()):
        return f"{_STOP}{stop.value}"
    code = error.exit_code if isinstance(error, NearfarError) else 1
    return f"{code}:{type(error).__name__}: {error}"


def _raise_error_of_other_rank(messages: Sequence[str]) -> None:
    """Raises an exception if the action of another rank has failed or was stopped."""
    stops = [message.removeprefix(_STOP) for message in messages if message.startswith(_STOP)]
    if stops:
        stop = Stop(max(map(int, stops)))
        request_stop(stop)
        raise stop.error()
    if any(messages):
        number = next(number for number, message in enumerate(messages) if message)
        code, _, message = messages[number].partition(":")
        # The message is repeated because the launcher may end that rank before it prints it.
        text = f"rank {number} has failed: {message}" if number else FIRST_HAS_FAILED
        raise OtherRankFailed(text, int(code))


FIRST_HAS_FAILED = "the first rank has failed; its message says why"


def agree(*numbers: int) -> list[int]:
    """Returns the largest of each number over the ranks, after a stop point of all ranks.

    If any rank was asked to stop, the same error is raised on all: Preempted, Interrupted or
    NoSpace. All ranks must call it.
    """
    stop, *largest = all_reduce_integers([int(requested_stop()), *numbers], MAX)
    if stop:
        request_stop(Stop(stop))
        raise Stop(stop).error()
    return largest


def _device() -> torch.device:
    """Returns the device whose tensors the process group can send."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if distributed.get_backend() == "nccl"
        else torch.device("cpu")
    )
