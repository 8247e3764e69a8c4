"""MaxSim of a whole batch, forward and backward from token vectors: `trainer.scores.maxsim` against
the formula as one `einsum`.

Queries of 32 and documents of up to 180 tokens, 128 dimensions, float32; each measurement in a
process of its own, the contenders in turn. Peak memory is that above the vectors. The squared norms
of scores and gradients must agree to 1e-4, or the script ends with an error (the tests compare them
number by number).

With `--device cuda`, `trainer.scores.maxsim` is the Triton kernel, and the same in pieces is
measured too. The time is then that of the wall clock, until the GPU is done, after one pass that
compiles. Nobody has run it on a GPU yet.
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


def vectors(batch: int, ragged: bool, device: torch.device) -> tuple[Tensor, Tensor]:
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
    return queries.to(device).requires_grad_(), documents.to(device).requires_grad_()


def gpu_megabytes(reset: bool = False) -> float:
    """The peak of the memory in use, once the GPU is done; with `reset`, what is in use now."""
    torch.cuda.synchronize()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / 2**20


def measure(job: dict[str, Any]) -> dict[str, Any]:
    from trainer.scores import maxsim, maxsim_in_pieces, plain_maxsim

    torch.set_num_threads(job["threads"] or 1)
    score = {"nearfar": maxsim, "pieces": maxsim_in_pieces, "einsum": plain_maxsim}[job["who"]]
    device = torch.device(job["device"])
    on_gpu = device.type == "cuda"
    warm = vectors(job["batch"] if on_gpu else 4, job["ragged"], device)
    score(*warm).sum().backward()
    del warm
    queries, documents = vectors(job["batch"], job["ragged"], device)
    weights = torch.linspace(-1, 1, job["batch"] ** 2, device=device).view(job["batch"], -1)
    before = gpu_megabytes(reset=True) if on_gpu else forget_peak_memory()
    start = Clock.now()
    scores = score(queries, documents)
    (scores * weights).sum().backward()
    after = gpu_megabytes() if on_gpu else peak_memory_megabytes()
    spent = Clock.now().since(start)
    found = [
        float((part.double() ** 2).sum())
        for part in (scores.detach(), queries.grad, documents.grad)
    ]
    return {
        "seconds": spent.wall if on_gpu else spent.processor,
        "extra_megabytes": after - before,
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
            if arguments.device == "cuda":
                found["pieces"] = []
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
                                "device": arguments.device,
                            },
                            timeout_seconds=1800,
                        )
                    )
            wanted = found.get("einsum", found["nearfar"])[0]["squares"]
            for one in found["nearfar"] + found.get("pieces", []):
                assert all(
                    abs(a - b) <= 1e-4 * b for a, b in zip(one["squares"], wanted, strict=True)
                ), (one["squares"], wanted)
            for who, results in found.items():
                seconds, megabytes = (
                    [one[key] for one in results] for key in ("seconds", "extra_megabytes")
                )
                rows.append(
                    [
                        f"{batch}, {'20 to 180' if ragged else '180'} tokens, {who}",
                        spread(seconds, 4 if arguments.device == "cuda" else 2),
                        spread(megabytes, 0),
                    ]
                )
                waits += [one["wait_ratio"] for one in results]
                print("  ".join(rows[-1]), flush=True)
            raw[f"{batch}, {'ragged' if ragged else 'even'}"] = found
    title = (
        f"MaxSim of B queries x B documents, forward and backward, {arguments.device},"
        f" {arguments.threads or 1} thread(s), {arguments.turns} turns; median (range)"
    )
    unmeasured = f"\neinsum is not run above {arguments.most}: it needs 12 GB at 512 (--most 512)"
    kind = "" if arguments.device == "cuda" else "processor "
    save(
        "maxsim" if arguments.device == "cpu" else f"maxsim_{arguments.device}",
        table(title, ["B", f"{kind}s", "extra MB"], rows) + "\n" + noise(waits) + unmeasured,
        raw,
    )


if __name__ == "__main__":
    run(__file__, measure, main, batches="64,256,512", turns=3, threads=0, most=256, device="cpu")
