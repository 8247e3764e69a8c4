"""Bytes between ranks a step: every document to every rank, as is usual, against ours, where
queries travel and documents stay.

Real gloo processes, embeddings only. Both ways must find the loss and the gradient of one process,
or the script ends with an error.

What is counted is what a rank receives of tensors, forward and backward, summed over the ranks.
Ours also exchanges the scores of the positives, one partial sum a query and rank, and the names of
texts by which false negatives are left out: a column of its own. Not in it are a few numbers a step
on which ranks agree (lengths, how many were left out). The loopback interface counts what the
kernel saw, headers included, in a network that only these processes use where that is allowed (else
with everybody's traffic: the least of several steps). It shows how gloo carries a collective out:
the scatter of the backward pass as a whole all-reduce, twice the bytes that it needs.
"""

import argparse
import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from measuring.children import on_ranks, run
from measuring.loopback import alone_on_loopback, loopback_bytes
from measuring.record import save, table
from torch import Tensor, distributed
from torch.nn import functional

NUMBER_BYTES = 4
WAYS = ("documents", "queries")


@dataclass(frozen=True)
class Case:
    """Shapes of the embeddings of a global batch."""

    batch: int
    negatives: int
    query: tuple[int, ...]
    document: tuple[int, ...]
    temperature: float

    @property
    def name(self) -> str:
        kind = (
            f"dense {self.query[0]}"
            if len(self.query) == 1
            else f"late interaction {self.query[0]}x{self.document[0]}x{self.query[1]}"
        )
        return f"{kind}, {self.negatives} hard negatives, {self.batch} queries"

    def expected(self, way: str, ranks: int) -> int:
        """2 (N - 1) times the elements of all documents, or of all queries: once forward, once
        backward.
        """
        one = (
            (1 + self.negatives) * torch.Size(self.document).numel()
            if way == "documents"
            else torch.Size(self.query).numel()
        )
        return 2 * (ranks - 1) * self.batch * one * NUMBER_BYTES

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Vectors of length 1, the same on every rank; a query's positive is near it."""
        generator = torch.Generator().manual_seed(0)
        queries = torch.randn(self.batch, *self.query, generator=generator)
        documents = torch.randn(self.batch, 1 + self.negatives, *self.document, generator=generator)
        positives = documents[:, 0] if len(self.query) == 1 else documents[:, 0, : self.query[0]]
        positives += (
            0.3 * queries
        )  # near enough to be found, and not so near that the gradient vanishes
        return functional.normalize(queries, dim=-1), functional.normalize(
            documents, dim=-1
        ).flatten(0, 1)


def score_of(case: Case) -> Any:
    from trainer.scores import dot, maxsim

    return dot if len(case.query) == 1 else maxsim


def documents_travel(case: Case, queries: Tensor, documents: Tensor) -> Tensor:
    """The usual way: this rank's queries against all documents of all ranks, gathered with their
    gradient. This rank's part of the loss.
    """
    from trainer.collectives import gather, rank

    own = torch.arange(len(queries)) + rank() * len(queries)
    return functional.cross_entropy(
        score_of(case)(queries, gather(documents)) / case.temperature, own * (1 + case.negatives)
    )


def queries_travel(case: Case, queries: Tensor, documents: Tensor) -> Tensor:
    """Ours: `trainer.objectives.contrastive.Contrastive` with the embeddings given."""
    from trainer.batch import Batch, Texts
    from trainer.collectives import rank
    from trainer.objectives.contrastive import Contrastive

    def named(count: int, first: int) -> Texts:
        return Texts(
            torch.zeros(count, dtype=torch.long),
            torch.arange(count + 1),
            torch.arange(count) + first,
        )

    texts = (
        named(len(queries), rank() * len(queries)),
        named(len(documents), 10**9 + rank() * len(documents)),
    )
    batch = Batch(*texts, texts[1].identities[:: 1 + case.negatives, None])
    objective = Contrastive(score_of(case))
    return objective(
        batch, lambda asked: queries if asked is texts[0] else documents, case.temperature
    ).loss


def on_a_rank(case: Case, way: str, steps: int) -> dict[str, Any]:
    """Loss and gradient of this rank's part of the batch, and every exchange of one step in bytes
    received.
    """
    from trainer import collectives as parallel

    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    count, position = parallel.ranks(), parallel.rank()
    exchanges: list[int] = []

    class Ledger(parallel.Traffic):
        def __setattr__(self, name: str, value: int) -> None:
            exchanges.append(value - getattr(self, name))
            super().__setattr__(name, value)

    seen = []
    for _ in range(steps):
        own = [
            whole.tensor_split(count)[position].clone().requires_grad_()
            for whole in case.embeddings()
        ]
        parallel.TRAFFIC = Ledger()
        exchanges.clear()
        distributed.barrier()
        before = loopback_bytes()
        distributed.barrier()  # nobody sends before the first rank has read
        loss = (documents_travel if way == "documents" else queries_travel)(case, *own)
        loss.backward()
        distributed.barrier()
        after = loopback_bytes()
        distributed.barrier()
        seen.append(None if before is None or after is None else after - before)
    gradient = [
        part.grad / count for part in own if part.grad is not None
    ]  # as the mean over ranks that every strategy takes
    return {
        "loss": float(loss.detach()),
        "gradient": gradient,
        "exchanges": [size for size in exchanges if size],
        "loopback": seen,
    }


def reference(case: Case) -> tuple[float, list[Tensor]]:
    """One process and the whole matrix of scores."""
    queries, documents = (whole.requires_grad_() for whole in case.embeddings())
    right = torch.arange(case.batch) * (1 + case.negatives)
    loss = functional.cross_entropy(score_of(case)(queries, documents) / case.temperature, right)
    return float(loss.detach()), list(torch.autograd.grad(loss, [queries, documents]))


def measured(
    case: Case, way: str, ranks: int, steps: int, wanted: tuple[float, list[Tensor]]
) -> dict[str, Any]:
    """Bytes over all ranks. Ends with an error where loss or gradient is not that of one
    process.
    """
    answers = on_ranks(ranks, on_a_rank, case, way, steps)
    loss = sum(answer["loss"] for answer in answers) / ranks
    found = [
        torch.cat(parts) for parts in zip(*(answer["gradient"] for answer in answers), strict=True)
    ]
    off = max(
        float((one - other).norm() / other.norm())
        for one, other in zip(found, wanted[1], strict=True)
    )
    assert abs(loss - wanted[0]) < 1e-5, (
        f"{case.name}, {way} on {ranks} ranks: the loss is {loss}, that of one process {wanted[0]}"
    )
    assert off < 1e-5, (
        f"{case.name}, {way} on {ranks} ranks: the gradient is {off:.1e} away from that of one"
        " process"
    )
    # The embeddings are by far the largest tensor that travels: once forward, once backward on
    # every rank.
    embeddings = [sum(sorted(answer["exchanges"])[-2:]) for answer in answers]
    seen = [size for size in answers[0]["loopback"] if size is not None]
    return {
        "embeddings": sum(embeddings),
        "rest": sum(sum(answer["exchanges"]) for answer in answers) - sum(embeddings),
        "expected": case.expected(way, ranks),
        "loopback": min(seen) if seen else None,
        "gradient_off": off,
    }


def compare(case: Case, ranks: list[int], steps: int) -> tuple[str, dict[str, Any]]:
    """The table of one case."""
    (wanted,) = on_ranks(1, reference, case)
    raw: dict[str, Any] = {}
    rows = []
    for count in ranks:
        usual, ours = (measured(case, way, count, steps, wanted) for way in WAYS)
        raw[str(count)] = {"documents": usual, "queries": ours}
        total = ours["embeddings"] + ours["rest"]
        cells = [megabytes(one[key]) for one in (usual, ours) for key in ("embeddings", "expected")]
        rows.append(
            [
                str(count),
                *cells,
                megabytes(ours["rest"]),
                f"{(usual['embeddings'] + usual['rest']) / total:.1f}x" if total else "-",
                megabytes(usual["loopback"]),
                megabytes(ours["loopback"]),
            ]
        )
        print(f"{case.name}, {count} ranks: done", flush=True)
    header = [
        "ranks",
        "documents MB",
        "formula",
        "queries MB",
        "formula",
        "and the rest MB",
        "fewer",
        "lo, documents",
        "lo, ours",
    ]
    worst = max(one["gradient_off"] for ways in raw.values() for one in ways.values())
    text = (
        f"{table(case.name, header, rows)}\nfurthest gradient from that of one process: {worst:.1e}"
    )
    return text, raw


def megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.3f}"


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # the ranks are forks of this process
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    alone = alone_on_loopback()
    dense = (arguments.dimensions,)
    query, document = (
        (arguments.query_tokens, arguments.late_dimensions),
        (
            arguments.document_tokens,
            arguments.late_dimensions,
        ),
    )
    cases = [
        Case(arguments.batch, 0, dense, dense, temperature=0.05),
        Case(arguments.batch, 7, dense, dense, temperature=0.05),
        Case(arguments.late_batch, 7, query, document, temperature=1.0),
    ]
    ranks = [int(count) for count in arguments.ranks.split(",")]
    found = {case.name: compare(case, ranks, arguments.steps) for case in cases}
    title = (
        "MB of a step that the ranks receive together, forward and backward, float32\nlo: what the"
        " kernel saw, "
        + ("nobody else being there" if alone else "other programs' traffic included")
    )
    save(
        "communication",
        "\n\n".join([title, *(text for text, _ in found.values())]),
        {name: raw for name, (_, raw) in found.items()},
    )


if __name__ == "__main__":
    run(
        __file__,
        lambda job: job,
        main,
        ranks="1,2,4,8",
        steps=3,
        batch=1024,
        dimensions=768,
        late_batch=16,
        late_dimensions=128,
        query_tokens=32,
        document_tokens=180,
    )
