"""The only file that knows of ranks, of recomputation and of tiles.

Ranks keep one convention: **every rank computes the same loss, that of the whole global batch.** The backward pass of a collective is its
adjoint, so the gradient a rank finds for the weights is `ranks` times its own share of the whole; the mean over ranks that DDP, FSDP2 and
DeepSpeed take anyway makes of these the sum of the shares, which is the gradient of one process (law 2).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.batch import Texts
from trainer.errors import BadMachine, OtherRankFailed
from trainer.scores import Score, exact

Result = TypeVar("Result")
Encode = Callable[[Texts], Float[Tensor, "text ..."]]
"""Any function from texts to one embedding each: a vector, or one vector a token, rows of zeros where there is none."""

Excluded = Callable[[slice, slice], Bool[Tensor, "query document"] | None]
"""(some queries of all ranks, some documents of this rank) to True where a document is not a candidate; None: all are."""

TILE_SCORES = {"cpu": 2**20, "cuda": 2**24}
"""Products of token vectors that are held at once."""
MAX, MIN, SUM = distributed.ReduceOp.MAX, distributed.ReduceOp.MIN, distributed.ReduceOp.SUM
_all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor  # renamed in torch 2.13
_reduce_scatter = getattr(distributed, "reduce_scatter_single", None) or distributed.reduce_scatter_tensor
_NOTHING = -1e30  # log of an empty sum, finite so that no difference of two is undefined


# ---------------------------------------------------------------- ranks


def ranks() -> int:
    """How many processes share a batch."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


@dataclass
class Traffic:
    """Bytes that this rank has received through `gather` and its backward pass."""

    forward: int = 0
    backward: int = 0


TRAFFIC = Traffic()


def gather(values: Shaped[Tensor, "row ..."], padding: float | int | None = None) -> Shaped[Tensor, "all_rows ..."]:
    """The rows of all ranks, in rank order; every rank must give the same number. With gradient.

    Given `padding`, further axes may differ between ranks (each has its own longest text) and are filled up with it.
    Floating point numbers travel in float32 or better.
    """
    if ranks() == 1:
        return values
    if values.dtype == torch.bool:
        return gather(values.byte()).bool()
    there = exact(values) if values.is_floating_point() else values
    there = there.to(_device())
    if padding is not None:
        widths = agreed(list(there.shape[1:]), MAX)
        room = [pad for width, own in zip(reversed(widths), reversed(there.shape[1:]), strict=True) for pad in (0, width - own)]
        there = functional.pad(there, room, value=padding)
    return _Gather.apply(there).to(values.device)


class _Gather(torch.autograd.Function):
    """All-gather; its adjoint adds up what all ranks say about one rank's rows and sends it there."""

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


def agreed(numbers: list[int], operation: Any) -> list[int]:
    """The elementwise maximum, minimum or sum of whole numbers over the ranks; the numbers themselves on one."""
    if ranks() == 1:
        return numbers
    together = torch.tensor(numbers, device=_device())
    distributed.all_reduce(together, operation)
    return together.tolist()


def summed(values: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The sum over ranks, without gradient; `values` may be overwritten."""
    if ranks() > 1:
        distributed.all_reduce(values)
    return values


def of_all(things: Sequence[str]) -> list[str]:
    """The texts of all ranks, in rank order."""
    if ranks() == 1:
        return list(things)
    everything: list[Any] = [None] * ranks()
    distributed.all_gather_object(everything, list(things))
    return [thing for of_rank in everything for thing in of_rank]


def on_first(action: Callable[[], Result]) -> Result | None:
    """What `action` returns on the first rank, None on the others, which wait for it. Where it fails, all ranks end."""
    error, result = None, None
    if rank() == 0:
        try:
            result = action()
        except Exception as raised:  # noqa: BLE001 - raised again below, once the others know
            error = raised
    (failed,) = agreed([int(error is not None)], MAX)
    if error is not None:
        raise error
    if failed:
        raise OtherRankFailed("the first rank has failed; its message says why")
    return result


def check_same(text: str, what: str) -> None:
    """Raises BadMachine on every rank where ranks were given different texts."""
    numbers = [int(byte) for byte in hashlib.sha256(text.encode()).digest()]
    if agreed(numbers, MIN) != agreed(numbers, MAX):
        raise BadMachine(f"the ranks were started with different versions of the {what}; start all of them with the same command and the same files")


def _device() -> torch.device:
    """Where the process group can send from."""
    return torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else torch.device("cpu")


# ---------------------------------------------------------------- micro-batches and recomputation


def micro_batches(lengths: Int[Tensor, " text"], tokens: int) -> list[Int[Tensor, " row"]]:
    """Rows in micro-batches of at most `tokens` padded tokens, longest text first; a longer text has a micro-batch to itself.

    Sorting by length first leaves next to no padding; the longest come first, so that a lack of memory shows at once.

    >>> [rows.tolist() for rows in micro_batches(torch.tensor([2, 9, 3, 3]), tokens=8)]
    [[1], [2, 3], [0]]
    """
    order = lengths.argsort(descending=True, stable=True)
    cuts, start = [], 0
    ordered = lengths[order].tolist()
    for end, _ in enumerate(ordered):
        if (end + 1 - start) * ordered[start] > tokens and end > start:
            cuts.append(order[start:end])
            start = end
    return [*cuts, order[start:]]


def in_chunks(encode: Encode, tokens: int | None, kept_tokens: int | None = None) -> Encode:
    """`encode` for one step, done in micro-batches of at most `tokens` padded tokens, each distinct text once.

    The embeddings and the gradient are those of the whole batch at once (law 1). Micro-batches keep their activations until `kept_tokens`
    padded tokens are kept (None: all do); the rest run again in the backward pass with their random state replayed, which is GradCache
    (Gao et al. 2021) inside one ordinary backward.

    Ranks run the same number of micro-batches and recompute the same ones: sharded weights are gathered anew for each, by all ranks together.
    """
    left = kept_tokens

    def encode_in_chunks(texts: Texts) -> Float[Tensor, "text ..."]:
        nonlocal left
        _, place = texts.identities.unique(return_inverse=True)
        first = torch.full((int(place.max()) + 1,), len(texts)).scatter_reduce_(0, place, torch.arange(len(texts)), "amin")
        lengths = texts.lengths[first]
        rows = micro_batches(lengths, tokens) if tokens else [torch.arange(len(first))]
        rows = _in_step(rows)
        keep = []
        for chunk in rows:
            cost = len(chunk) * int(lengths[chunk].max())
            keep.append(left is None or cost <= left)
            if left is not None and keep[-1]:
                left -= cost
        keep = [bool(kept) for kept in agreed(list(map(int, keep)), MIN)]
        parts = [texts.select(first[chunk]) for chunk in rows]
        encoded = [encode(part) if kept else checkpoint(encode, part, use_reentrant=False) for part, kept in zip(parts, keep, strict=True)]
        back = torch.cat(rows)[: len(first)].argsort()[place]
        return _joined(encoded)[back.to(encoded[0].device)]

    return encode_in_chunks


def _in_step(rows: list[Int[Tensor, " _"]]) -> list[Int[Tensor, " _"]]:
    """As many micro-batches as the rank with the most: the largest are halved; where all hold one text, the first is encoded again for nothing."""
    (wanted,) = agreed([len(rows)], MAX)
    while len(rows) < wanted:
        largest = max(range(len(rows)), key=lambda number: len(rows[number]))
        if len(rows[largest]) == 1:
            return rows + [rows[0]] * (wanted - len(rows))
        rows[largest : largest + 1] = rows[largest].tensor_split(2)
    return rows


def _joined(parts: list[Float[Tensor, "_ ..."]]) -> Float[Tensor, "text ..."]:
    """The embeddings of all micro-batches; token vectors are filled up with rows of zeros to the longest text."""
    if parts[0].ndim > 2:
        longest = max(part.shape[1] for part in parts)
        parts = [functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(parts)


# ---------------------------------------------------------------- the sum over all candidates


class LogPartition(NamedTuple):
    """Logs of sums of exponentials over candidates, of the whole global batch on every rank."""

    of_queries: Float[Tensor, " query"]
    """Over all documents of all ranks, for each query."""
    of_positives: Float[Tensor, " query"] | None
    """Over all queries of all ranks, for each query's positive."""
    excluded: int
    """How many pairs of a query and a document were left out."""


def log_partition(
    queries: Float[Tensor, "query ..."],
    documents: Float[Tensor, "document ..."],
    score: Score,
    temperature: Float[Tensor, ""] | float,
    excluded: Excluded,
    symmetric: bool = False,
) -> LogPartition:
    """log of the sum over candidates of exp(score / temperature), over the documents of all ranks.

    Queries travel and documents stay: each rank scores the queries of all ranks against its own documents, in tiles that are computed again
    in the backward pass (8 B^2 D operations and O(B D) memory), and the ranks exchange one partial logarithm a query. With `symmetric`, the
    same pass also sums over the queries for each positive, which is every first of a query's documents. Excluded scores are minus infinity,
    never zero. A score must be linear in the length of the query, as dot products and sums of them are.
    """
    everyone = gather(exact(queries) / temperature, padding=0.0 if queries.ndim > 2 else None)
    stride = len(documents) // len(queries) if symmetric else 0
    count = [0]
    rows, columns = _Tiles.apply(everyone, exact(documents), score, excluded, stride, count)
    of_queries = gather(rows[None]).logsumexp(0)
    return LogPartition(of_queries, gather(columns) if symmetric else None, agreed(count, SUM)[0])


class _Tiles(torch.autograd.Function):
    """Log-sum-exp over rows, and over columns of every `stride`-th document, of a matrix of scores that never exists as a whole.

    d lse_i / d s_ij = exp(s_ij - lse_i), so the backward pass needs the two logarithms and each tile of scores once more.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, documents: Tensor, score: Score, excluded: Excluded, stride: int, count: list[int]
    ) -> tuple[Tensor, Tensor]:
        rows = queries.new_full((len(queries),), _NOTHING)
        columns = queries.new_full((len(documents[::stride]) if stride else 0,), _NOTHING)
        for some_queries, some_documents in _tiles(queries, documents, stride):
            scores, left_out = _tile(queries[some_queries], documents[some_documents], score, excluded(some_queries, some_documents))
            count[0] += left_out
            rows[some_queries] = torch.logaddexp(rows[some_queries], scores.logsumexp(1))
            if stride:
                some_positives = _positives(some_documents, stride)
                columns[some_positives] = torch.logaddexp(columns[some_positives], scores[:, ::stride].logsumexp(0))
        ctx.save_for_backward(queries, documents, rows, columns)
        ctx.settings = score, excluded, stride
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor | None, ...]:
        queries, documents, rows, columns = ctx.saved_tensors
        score, excluded, stride = ctx.settings
        of_queries, of_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for some_queries, some_documents in _tiles(queries, documents, stride):
            inputs = [part.detach().requires_grad_() for part in (queries[some_queries], documents[some_documents])]
            with torch.enable_grad():
                scores = score(*inputs)
            final, _ = _masked(scores.detach(), excluded(some_queries, some_documents))
            of_scores = (final - rows[some_queries, None]).exp_().mul_(of_rows[some_queries, None])
            if stride:
                some_positives = _positives(some_documents, stride)
                of_scores[:, ::stride] += (final[:, ::stride] - columns[some_positives]).exp_().mul_(of_columns[some_positives])
            for total, some, part in zip(
                (of_queries, of_documents), (some_queries, some_documents), torch.autograd.grad(scores, inputs, of_scores), strict=True
            ):
                total[some] += part
        return of_queries, of_documents, None, None, None, None


def _tile(queries: Tensor, documents: Tensor, score: Score, mask: Tensor | None) -> tuple[Tensor, int]:
    return _masked(score(queries, documents), mask)


def _masked(scores: Float[Tensor, "query document"], mask: Bool[Tensor, "query document"] | None) -> tuple[Float[Tensor, "query document"], int]:
    if mask is None:
        return scores, 0
    return scores.masked_fill(mask.to(scores.device), -torch.inf), int(mask.sum())


def _tiles(queries: Float[Tensor, "query ..."], documents: Float[Tensor, "document ..."], stride: int) -> Iterator[tuple[slice, slice]]:
    """Near-square tiles of about `TILE_SCORES` products, in whole strides of documents."""
    room = TILE_SCORES.get(queries.device.type, TILE_SCORES["cuda"])
    of_one = queries.shape[1:-1].numel() * documents.shape[1:-1].numel()
    side = max(1, int((room / of_one) ** 0.5))
    unit = max(1, stride)
    wide = max(unit, side // unit * unit)
    for column in range(0, len(documents), wide):
        for row in range(0, len(queries), side):
            yield slice(row, min(row + side, len(queries))), slice(column, min(column + wide, len(documents)))


def _positives(documents: slice, stride: int) -> slice:
    return slice(documents.start // stride, -(-documents.stop // stride))
