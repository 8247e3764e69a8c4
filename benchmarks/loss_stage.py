"""The loss alone, forward and backward from embeddings: sentence-transformers' cached loss at its
default, a hand-tuned loop over tiles, and ours.

Every contender gets the same vectors of length 1 and must find the same loss and the same gradient
(its part along the sphere) to 1e-5. Ours also looks up the identity of every text, which the others
cannot. A second table holds the memory of a large batch.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring.children import child, run
from measuring.clocks import Clock, forget_peak_memory, peak_memory_megabytes
from measuring.record import noise, save, spread, table
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.05
TILES = (512, 1024, 2048)
REPEATED = "nearfar, each text four times"


def vectors(batch: int, dimensions: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = functional.normalize(torch.randn(batch, dimensions, generator=generator), dim=1)
    documents = functional.normalize(
        queries + 0.1 * torch.randn(batch, dimensions, generator=generator), dim=1
    )
    return queries.requires_grad_(), documents.requires_grad_()


def along_the_sphere(values: Tensor) -> Tensor:
    """The gradient of vectors of length 1 without its part along them, which a cosine does not
    have.
    """
    assert values.grad is not None
    unit = values.detach()
    return values.grad - (values.grad * unit).sum(1, keepdim=True) * unit


def ours(queries: Tensor, documents: Tensor, copies: int = 1) -> Tensor:
    """`trainer.objectives.contrastive.Contrastive` with the embeddings given. With `copies`, each
    document's text occurs that often, and its copies are no negatives.
    """
    from trainer.batch import Batch, Texts
    from trainer.objectives.contrastive import Contrastive
    from trainer.scores import dot

    count = len(queries)
    named = [
        Texts(
            torch.zeros(count, dtype=torch.long),
            torch.arange(count + 1),
            torch.arange(count) % (count // each) + first,
        )
        for first, each in ((0, 1), (10**9, copies))
    ]
    batch = Batch(named[0], named[1], named[1].identities[:, None])
    objective = Contrastive(dot)
    loss = objective(
        batch, lambda texts: queries if texts is named[0] else documents, TEMPERATURE
    ).loss
    loss.backward()
    return loss.detach()


def theirs(similarity: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Its default compares by cosine and so normalises once more, every document for every
    mini-batch; the dot product spares it that.
    """

    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        from sentence_transformers import util
        from sentence_transformers.sentence_transformer.losses import (
            CachedMultipleNegativesRankingLoss,
        )

        model = torch.nn.Sequential(torch.nn.Identity())
        cached = CachedMultipleNegativesRankingLoss(
            model, scale=1 / TEMPERATURE, similarity_fct=getattr(util, similarity)
        )
        return cached.calculate_loss([[queries], [documents]], with_backward=True).detach()

    return loss


def by_hand(
    tile: int, product: Callable[[Tensor, Tensor], Tensor], kept: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loop with every product in place: what a person would write for this case alone.
    `product(a, b)` is a b^T; `kept`: all scores are, in B^2 memory.
    """

    @torch.no_grad()
    def loss(queries: Tensor, documents: Tensor) -> Tensor:
        scaled, count = queries / TEMPERATURE, len(queries)
        parts = [slice(start, start + tile) for start in range(0, count, tile)]
        scores: dict[tuple[int, int], Tensor] = {}

        def scored(rows: slice, columns: slice) -> Tensor:
            place = rows.start, columns.start
            if place in scores:
                return scores.pop(place)
            found = product(scaled[rows], documents[columns])
            if kept:
                scores[place] = found
            return found

        logs = torch.cat(
            [
                torch.stack([scored(rows, columns).logsumexp(1) for columns in parts]).logsumexp(0)
                for rows in parts
            ]
        )
        of_queries, of_documents = torch.zeros_like(queries), torch.zeros_like(documents)
        for rows in parts:
            for columns in parts:
                shares = scored(rows, columns).sub_(logs[rows, None]).exp_().mul_(1 / count)
                of_queries[rows] += product(shares, documents[columns].T)
                of_documents[columns] += product(shares.T, scaled[rows].T)
        queries.grad = (of_queries - documents / count) / TEMPERATURE
        documents.grad = of_documents - scaled / count
        return (logs - (scaled * documents).sum(1)).mean()

    return loss


def contenders() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    from trainer.kernels.matmul import onednn_linear

    products = {
        "PyTorch": lambda one, other: one @ other.T,
        "oneDNN": lambda one, other: onednn_linear(one, other, None),
    }
    loops = {
        f"hand-tuned, {name}, {'scores kept, ' if kept else ''}tiles of {tile}": by_hand(
            tile, product, kept
        )
        for kept in (False, True)
        for name, product in products.items()
        for tile in TILES
    }
    cached = {
        "sentence-transformers, cached": theirs("cos_sim"),
        "the same with dot products": theirs("dot_score"),
    }
    return {**cached, **loops, "nearfar": ours, REPEATED: partial(ours, copies=4)}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Peak memory and time of one loss on a large batch, in a process of its own."""
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    queries, documents = vectors(job["batch"], job["dimensions"])
    small = vectors(64, job["dimensions"])
    ours(*small)
    before, start = forget_peak_memory(), Clock.now()
    ours(queries, documents)
    spent = Clock.now().since(start)
    return {
        "extra_megabytes": peak_memory_megabytes() - before,
        "processor_seconds": spent.processor,
        "wait_ratio": spent.wait_ratio,
    }


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads or 1)
    found: dict[str, list[float]] = {}
    waits, reference = [], None
    for turn in range(arguments.turns):
        for name, loss in contenders().items():
            queries, documents = vectors(arguments.batch, arguments.dimensions)
            start = Clock.now()
            value = loss(queries, documents)
            spent = Clock.now().since(start)
            gradient = torch.cat([along_the_sphere(queries), along_the_sphere(documents)])
            reference = (value, gradient) if reference is None else reference
            if name == REPEATED:  # it has fewer negatives, and so another loss
                assert value < reference[0]
            else:
                assert abs(value - reference[0]) < 1e-5, name
                assert (gradient - reference[1]).norm() < 1e-5 * reference[1].norm(), name
            found.setdefault(name, []).append(spent.processor)
            waits.append(spent.wait_ratio)
            print(f"turn {turn + 1} {name}: {spent.processor:.2f} processor s", flush=True)
    medians = {name: statistics.median(values) for name, values in found.items()}
    tuned = min(value for name, value in medians.items() if name.startswith("hand-tuned"))
    rows = [
        [
            name,
            spread(values, 2),
            f"{medians['sentence-transformers, cached'] / medians[name]:.1f}x",
            f"{medians[name] / tuned:.2f}x",
        ]
        for name, values in found.items()
    ]
    title = (
        f"loss of {arguments.batch} pairs of {arguments.dimensions} dimensions, float32, forward"
        f" and backward, {arguments.threads or 1} thread(s), {arguments.turns} turns"
    )
    job = {
        "batch": arguments.large,
        "dimensions": arguments.large_dimensions,
        "threads": arguments.threads or 1,
    }
    large = child(__file__, job, timeout_seconds=3600)
    text = "\n".join(
        [
            table(
                title + ("; median (range)"),
                ["", ("processor s"), ("faster than cached"), "of the best loop's time"],
                rows,
            ),
            noise(waits),
            f"nearfar, {arguments.large} pairs of {arguments.large_dimensions}: "
            f"{large['extra_megabytes']:.0f} MB beside the embeddings, "
            f"{large['processor_seconds']:.0f} processor s",
        ]
    )
    save("loss-stage", text, {"processor_seconds": found, "large": large})


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        batch=4096,
        dimensions=768,
        large=65536,
        large_dimensions=384,
        turns=5,
        threads=0,
    )
