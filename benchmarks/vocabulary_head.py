"""The head of a sparse model alone, forward and backward from token vectors: in tiles, as training
does it, against the formula, which has a number per token and word.

64 texts of equal length, vectors of 128 components, 30 522 words, float32; each measurement in a
process of its own, the contenders in turn. Peak memory is that above the token vectors and weights.
The bias is so low that few words are active, as in a trained model. The squared norms of outputs
and gradients must agree to 1e-4, or the script ends with an error (the tests compare them number by
number). Lengths above `--most` are measured without the formula, whose memory grows with them.
"""

import argparse
from typing import Any

import torch
from measuring.children import child, run
from measuring.clocks import Clock, forget_peak_memory, peak_memory_megabytes
from measuring.record import noise, save, spread, table
from torch import Tensor

TEXTS, WIDTH, WORDS, BIAS, SCALE = 64, 128, 30_522, -2.4, 0.05


def in_tiles(states: Tensor, weight: Tensor, bias: Tensor, length: int) -> Tensor:
    from trainer.batch import Texts
    from trainer.kernels.vocabulary_maximum import vocabulary_maximum
    from trainer.models.parts.packed import micro_batch

    count = len(states) // length
    packing = micro_batch(Texts.of([[0] * length] * count, range(count)), states.device).packing
    return vocabulary_maximum(states, weight, bias, packing)


def plain(states: Tensor, weight: Tensor, bias: Tensor, length: int) -> Tensor:
    return (states @ weight.T + bias).relu().log1p().unflatten(0, (-1, length)).amax(1)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(job["threads"] or 1)
    head = {"tiles": in_tiles, "plain": plain}[job["who"]]
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(TEXTS * job["length"], WIDTH, generator=generator).requires_grad_()
    weight = (SCALE * torch.randn(WORDS, WIDTH, generator=generator)).requires_grad_()
    bias = torch.full((WORDS,), BIAS, requires_grad=True)
    head(states[:4], weight[:9], bias[:9], 2).sum().backward()  # what is loaded on the first call
    states.grad = weight.grad = bias.grad = None
    before, start = forget_peak_memory(), Clock.now()
    output = head(states, weight, bias, job["length"])
    output.square().sum().backward()
    spent = Clock.now().since(start)
    return {
        "seconds": spent.processor,
        "extra_megabytes": peak_memory_megabytes() - before,
        "wait_ratio": spent.wait_ratio,
        "active_terms": float((output > 0).sum(1).float().mean()),
        "squares": [
            float(part.double().square().sum())
            for part in (output.detach(), states.grad, weight.grad, bias.grad)
        ],
    }


def main(arguments: argparse.Namespace) -> None:
    rows: list[list[str]] = []
    raw: dict[str, Any] = {}
    for length in map(int, arguments.lengths.split(",")):
        contenders = ("plain", "tiles") if length <= arguments.most else ("tiles",)
        results: dict[str, list[dict[str, Any]]] = {who: [] for who in contenders}
        for _ in range(arguments.turns):
            for who in contenders:
                job = {"who": who, "length": length, "threads": arguments.threads}
                results[who].append(child(__file__, job, timeout_seconds=1800))
        expected = results[contenders[0]][0]["squares"]
        for one in results["tiles"]:
            assert all(
                abs(mine - other) <= 1e-4 * other
                for mine, other in zip(one["squares"], expected, strict=True)
            ), (one["squares"], expected)
        for who, runs in results.items():
            rows.append(
                [
                    f"{length} tokens, {who}",
                    spread([one["seconds"] for one in runs], 2),
                    spread([one["extra_megabytes"] for one in runs], 0),
                    f"{runs[0]['active_terms']:.0f}",
                ]
            )
        raw[str(length)] = results
    title = (
        f"{TEXTS} texts, {WIDTH} components, {WORDS} words, float32, {arguments.turns} turns,"
        f" {arguments.threads or 1} threads; median (range)"
    )
    header = ["head", "processor s", "MB above the start", "active terms per text"]
    waits = [
        one["wait_ratio"] for results in raw.values() for runs in results.values() for one in runs
    ]
    save("vocabulary-head", "\n".join([table(title, header, rows), noise(waits)]), raw)


if __name__ == "__main__":
    run(__file__, measure, main, lengths="32,64,128,256,512", most=128, turns=3, threads=1)
