"""Float32 linear layers on a CPU: oneDNN (trainer/kernels/matmul.py) against PyTorch's choice,
forward and backward, at the model's shapes.
"""

import argparse
from typing import Any

import torch
from measuring.clocks import Clock
from measuring.record import noise, save, spread, table
from torch.nn import functional

from trainer.kernels.matmul import _OneDnnLinear

TOKENS = (256, 1024, 2048)
SHAPES = {
    "attention": (384, 384),
    "feed-forward up": (384, 1536),
    "feed-forward down": (1536, 384),
    "LoRA A": (384, 32),
    "LoRA B": (32, 384),
}
PRODUCTS = {"PyTorch": functional.linear, "oneDNN": _OneDnnLinear.apply}


def one(product: Any, tokens: int, width: tuple[int, int], repeats: int) -> tuple[float, float]:
    """GFLOP a processor second of forward and backward with a trained weight, and the share of time
    spent waiting.
    """
    values = torch.randn(tokens, width[0], requires_grad=True)
    weight, bias = (
        torch.randn(width[1], width[0], requires_grad=True),
        torch.randn(width[1], requires_grad=True),
    )
    gradient = torch.randn(tokens, width[1])

    def step() -> None:
        product(values, weight, bias).backward(gradient)
        values.grad = weight.grad = bias.grad = None

    for _ in range(3):
        step()
    start = Clock.now()
    for _ in range(repeats):
        step()
    spent = Clock.now().since(start)
    return 6e-9 * tokens * width[0] * width[1] * repeats / spent.processor, spent.wait_ratio


def main(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    rows, waits, raw = [], [], {}
    for name, width in SHAPES.items():
        for tokens in TOKENS:
            repeats = max(3, int(2e10 / (6 * tokens * width[0] * width[1])))
            found: dict[str, list[float]] = {key: [] for key in PRODUCTS}
            for _ in range(arguments.turns):
                for key, product in PRODUCTS.items():
                    rate, wait = one(product, tokens, width, repeats)
                    found[key].append(rate)
                    waits.append(wait)
            ratio = (
                sorted(found["oneDNN"])[arguments.turns // 2]
                / sorted(found["PyTorch"])[arguments.turns // 2]
            )
            rows.append(
                [
                    f"{name} {width[0]}x{width[1]}",
                    str(tokens),
                    spread(found["PyTorch"], 0),
                    spread(found["oneDNN"], 0),
                    f"{ratio:.2f}x",
                ]
            )
            raw[f"{name} {tokens}"] = found
    title = (
        "forward and backward of a linear layer in fp32, GFLOP a processor second,"
        f" {arguments.threads} thread(s); median (range)"
    )
    save(
        "cpu-linear",
        "\n".join(
            [table(title, ["layer", "tokens", "PyTorch", "oneDNN", "ratio"], rows), noise(waits)]
        ),
        raw,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    main(parser.parse_args())
