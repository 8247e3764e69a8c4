"""Attention on a CPU: plain products (trainer/kernels/cpu_attention.py) against PyTorch's fused
form, forward and backward, by length.
"""

import argparse
import itertools
from typing import Any

import torch
from measuring.clocks import Clock
from measuring.record import noise, save, spread, table
from torch import Tensor
from torch.nn import functional

from trainer.kernels.cpu_attention import _MAX_TOKENS, plain_attention

LENGTHS = (8, 16, 32, 40, 64, 128, 256, 512)
TOKENS, HEADS, WIDTH = 2048, 12, 32


def fused(
    query: Tensor, key: Tensor, value: Tensor, attended: Tensor | None, scale: float
) -> Tensor:
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attended, scale=scale
    )


def one(
    attention: Any, length: int, dtype: torch.dtype, padded: bool, repeats: int
) -> tuple[float, float]:
    """Processor milliseconds of one forward and backward over a micro-batch, and the share of time
    spent waiting.
    """
    shape = (TOKENS // length, length, HEADS, WIDTH)
    parts = [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]
    gradient = torch.randn(shape, dtype=dtype).transpose(1, 2)
    attended = torch.ones(TOKENS // length, 1, length, length, dtype=torch.bool) if padded else None
    if attended is not None:
        attended[::2, ..., -1] = False

    def step() -> None:
        attention(*parts, attended, WIDTH**-0.5).backward(gradient)
        for part in parts:
            part.grad = None

    for _ in range(2):
        step()
    start = Clock.now()
    for _ in range(repeats):
        step()
    spent = Clock.now().since(start)
    return 1000 * spent.processor / repeats, spent.wait_ratio


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    rows, waits, raw = [], [], {}
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        for length, padded in itertools.product(LENGTHS, (True, False)):
            found: dict[str, list[float]] = {"fused": [], "plain": []}
            for _ in range(arguments.turns):
                for key, attention in (("fused", fused), ("plain", plain_attention)):
                    milliseconds, wait = one(attention, length, dtype, padded, arguments.repeats)
                    found[key].append(milliseconds)
                    waits.append(wait)
            ratio = (
                sorted(found["fused"])[arguments.turns // 2]
                / sorted(found["plain"])[arguments.turns // 2]
            )
            taken = "plain" if length <= _MAX_TOKENS[dtype] else "fused"
            rows.append(
                [
                    name,
                    str(length),
                    "yes" if padded else "no",
                    spread(found["fused"], 2),
                    spread(found["plain"], 2),
                    f"{ratio:.2f}x",
                    taken,
                ]
            )
            raw[f"{name} {length}{' padded' if padded else ''}"] = found
    title = (
        f"forward and backward of attention over {TOKENS} tokens, {HEADS} heads of {WIDTH},"
        f" processor ms, {arguments.threads} thread(s); median (range)"
    )
    save(
        "cpu-attention",
        "\n".join(
            [
                table(
                    title, ["", "length", "padded", "fused", "plain", "plain is", "we take"], rows
                ),
                noise(waits),
            ]
        ),
        raw,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    main(parser.parse_args())
