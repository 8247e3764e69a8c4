"""MaxSim of a whole batch, forward and backward from token vectors: `trainer.scores.maxsim` against
the formula as one `einsum`.

Queries of 32 and documents of up to 180 tokens, 128 dimensions, float32; each measurement in a
process of its own, the contenders in turn. Peak memory is that above the vectors. The squared norms
of scores and gradients must agree to 1e-4, or the script ends with an error (the tests compare them
number by number).
"""

import argparse
from typing import Any

import torch
from measuring.children import child, run
from measuring.clocks import Clock, forget_peak_memory, peak_memory_megabytes
from measuring.record import noise, save, spread, table
from torch import Tensor
from torch.nn import functional

QUERY_TOKENS, DOCUMENT_TOKENS, DIMENSIONS = 32, 180, 128


def vectors(batch: int, ragged: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries = functional.normalize(
        torch.randn(batch, QUERY_TOKENS, DIMENSIONS, generator=generator), dim=-1
    )
    documents = functional.normalize(
        torch.randn(batch, DOCUMENT_TOKENS, DIMENSIONS, generator=generator), dim=-1
    )
    if ragged:
        lengths = torch.randint(20, DOCUMENT_TOKENS + 1, (batch, 1), generator=generator)
        documents = documents * (torch.arange(DOCUMENT_TOKENS) < lengths)[..., None]
    return queries.requires_grad_(), documents.requires_grad_()


def measure(job: dict[str, Any]) -> dict[str, Any]:
    from trainer.scores import maxsim, plain_maxsim

    torch.set_num_threads(job["threads"] or 1)
    score = {"nearfar": maxsim, "einsum": plain_maxsim}[job["who"]]
    small = vectors(4, False)
    score(*small).sum().backward()
    queries, documents = vectors(job["batch"], job["ragged"])
    weights = torch.linspace(-1, 1, job["batch"] ** 2).view(job["batch"], -1)
    before, start = forget_peak_memory(), Clock.now()
    scores = score(queries, documents)
    (scores * weights).sum().backward()
    spent = Clock.now().since(start)
    extra = peak_memory_megabytes() - before
    found = [
        float((part.double() ** 2).sum())
        for part in (scores.detach(), queries.grad, documents.grad)
    ]
    return {
        "processor_seconds": spent.processor,
        "extra_megabytes": extra,
        "wait_ratio": spent.wait_ratio,
        "squares": found,
    }


def main(arguments: argparse.Namespace) -> None:
    rows: list[list[str]] = []
    raw: dict[str, Any] = {}
    waits: list[float] = []
    for batch in map(int, arguments.batches.split(",")):
        for ragged in (False, True):
            found: dict[str, list[dict[str, Any]]] = {"einsum": [], "nearfar": []}
            if batch > arguments.most:
                del found["einsum"]
            for _ in range(arguments.turns):
                for who, results in found.items():
                    results.append(
                        child(
                            __file__,
                            {
                                "who": who,
                                "batch": batch,
                                "ragged": ragged,
                                "threads": arguments.threads,
                            },
                            timeout_seconds=1800,
                        )
                    )
            wanted = found.get("einsum", found["nearfar"])[0]["squares"]
            for one in found["nearfar"]:
                assert all(
                    abs(a - b) <= 1e-4 * b for a, b in zip(one["squares"], wanted, strict=True)
                ), (one["squares"], wanted)
            for who, results in found.items():
                seconds, megabytes = (
                    [one[key] for one in results]
                    for key in ("processor_seconds", "extra_megabytes")
                )
                rows.append(
                    [
                        f"{batch}, {'20 to 180' if ragged else '180'} tokens, {who}",
                        spread(seconds, 2),
                        spread(megabytes, 0),
                    ]
                )
                waits += [one["wait_ratio"] for one in results]
                print("  ".join(rows[-1]), flush=True)
            raw[f"{batch}, {'ragged' if ragged else 'even'}"] = found
    title = (
        f"MaxSim of B queries x B documents, forward and backward, {arguments.threads or 1}"
        f" thread(s), {arguments.turns} turns; median (range)"
    )
    unmeasured = f"\neinsum is not run above {arguments.most}: it needs 12 GB at 512 (--most 512)"
    save(
        "maxsim",
        table(title, ["B", "processor s", "extra MB"], rows) + "\n" + noise(waits) + unmeasured,
        raw,
    )


if __name__ == "__main__":
    run(__file__, measure, main, batches="64,256,512", turns=3, threads=0, most=256)
