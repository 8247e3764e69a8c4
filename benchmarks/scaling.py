"""How a step of named models grows to 1 024 GPUs, by formulas and assumed speeds.

The formulas of bytes are those that `thousand_ranks.py` counts (tests compare them). The speeds are
assumptions about GPUs and networks: nothing here was run on a GPU. docs/scaling.md explains them.
"""

import math
from dataclasses import dataclass

from measuring.record import table

NUMBER, NAME = 4, 8
"""Bytes of a float32, and of the identity of a text."""
RANKS, RANKS_PER_NODE = (8, 64, 1024), 8
MICRO_BATCH_TOKENS = 16384
PRODUCTS, EXACT_PRODUCTS = 400e12, 50e12
"""Operations per second of a GPU, assumed: bf16 in the encoder, float32 in the loss."""
IN_NODE, MEMORY = 450e9, 3.3e12
"""Bytes per second of a GPU, assumed: to others of its node, and to its own memory."""
NETWORKS = {"8 x 400 Gb/s": 400e9, "1 x 400 Gb/s": 50e9}
"""Bytes per second of a whole node to others, assumed: one adapter per GPU, or one in all."""


@dataclass(frozen=True)
class Model:
    """A model and its batch per rank. All weights are trained, with two documents per query."""

    name: str
    weights: int
    block_weights: int
    """Those in the layers, without the tables of embeddings."""
    layers: int
    attention_width: int
    dimensions: int
    queries: int
    """Per rank."""
    query_tokens: int
    document_tokens: int
    compares_tokens: bool = False
    documents: int = 2
    known: int = 1

    @property
    def tokens(self) -> int:
        """Tokens per rank and step."""
        return self.queries * (self.query_tokens + self.documents * self.document_tokens)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of queries and of documents."""
        query_tokens = self.queries * self.query_tokens
        return sum(
            math.ceil(tokens / MICRO_BATCH_TOKENS)
            for tokens in (query_tokens, self.tokens - query_tokens)
        )

    def encoder_operations(self) -> float:
        """Forward and backward, nothing recomputed: 6 per weight and token, and attention."""
        attention = 12 * self.layers * self.attention_width * self.document_tokens
        return self.tokens * (6.0 * self.block_weights + attention)

    def loss_operations(self, ranks: int) -> float:
        """The queries of all ranks against the documents of one: forward and, for vectors, twice
        that backward. MaxSim's backward pass has only the best places.
        """
        pairs = float(ranks * self.queries) * self.queries * self.documents
        if self.compares_tokens:
            return 2 * pairs * self.query_tokens * self.document_tokens * self.dimensions
        return 6 * pairs * self.dimensions

    def gathered(self, ranks: int) -> int:
        """The whole size of what is gathered for the loss."""
        return self.vectors(ranks) + ranks * self.queries * (NUMBER + (1 + self.known) * NAME)

    def scattered(self, ranks: int) -> int:
        """The whole size of the gradients that are scattered for the loss."""
        return self.vectors(ranks) + ranks * self.queries * NUMBER

    def summed(self, ranks: int) -> int:
        """The whole size of what is added for the loss."""
        return 3 * NUMBER * ranks * self.queries + 2 * NAME

    def vectors(self, ranks: int) -> int:
        """The bytes of the embeddings of all queries."""
        each = self.query_tokens if self.compares_tokens else 1
        return NUMBER * ranks * self.queries * each * self.dimensions

    def gathered_weights(self) -> int:
        """The whole size of the weights that FSDP2 gathers in a step."""
        rest = self.weights - self.block_weights
        return NUMBER * (rest + 2 * self.micro_batches * self.block_weights)


MODELS = (
    Model("BERT-base, 512 tokens", 108_891_648, 85_054_464, 12, 768, 768, 64, 32, 512),
    Model("Qwen3-0.6B, 512 tokens", 596_049_920, 440_466_432, 28, 2048, 1024, 32, 64, 512),
    Model("ColBERT, 32 x 180 tokens", 108_989_952, 85_054_464, 12, 768, 128, 64, 32, 180, True),
)


def loss_bytes(model: Model, ranks: int) -> float:
    """What a rank sends for the loss."""
    whole = model.gathered(ranks) + model.scattered(ranks) + 2 * model.summed(ranks)
    return whole * (ranks - 1) / ranks


def gradient_bytes(model: Model, ranks: int) -> float:
    """What a rank sends for the gradient under DDP."""
    return 2 * NUMBER * model.weights * (ranks - 1) / ranks


def flat_bytes(model: Model, ranks: int) -> float:
    """What a rank sends for weights and gradients if all ranks share one copy (FSDP2)."""
    return (model.gathered_weights() + NUMBER * model.weights) * (ranks - 1) / ranks


def hybrid_bytes(model: Model, ranks: int) -> tuple[float, float]:
    """What a rank sends within its node, and between nodes, if each node has a copy (HSDP)."""
    nodes, within = ranks // RANKS_PER_NODE, flat_bytes(model, RANKS_PER_NODE)
    return within, 2 * NUMBER * model.weights / RANKS_PER_NODE * (nodes - 1) / nodes


def sizes(model: Model, ranks: int) -> list[str]:
    """A line of the first table: what a GPU sends and computes."""
    sent = (
        loss_bytes(model, ranks),
        gradient_bytes(model, ranks),
        flat_bytes(model, ranks),
        *hybrid_bytes(model, ranks),
    )
    seconds = (
        model.encoder_operations() / PRODUCTS,
        model.loss_operations(ranks) / EXACT_PRODUCTS,
        28 * model.weights / MEMORY,
    )
    return [
        *(model.name, str(ranks), f"{ranks * model.queries:,}"),
        *(f"{size / 1e9:.3f}" for size in sent),
        *(f"{1e3 * each:.1f}" for each in seconds),
    ]


def times(model: Model, ranks: int) -> list[str]:
    """A line of the second table: milliseconds of the collectives."""
    cells = [model.name, str(ranks)]
    within, between = hybrid_bytes(model, ranks)
    for network in NETWORKS.values():
        # A ring enters a node once, so all adapters of the node carry what one GPU sends.
        link = IN_NODE if ranks <= RANKS_PER_NODE else min(IN_NODE, network)
        seconds = (
            loss_bytes(model, ranks) / link,
            gradient_bytes(model, ranks) / link,
            flat_bytes(model, ranks) / link,
            within / IN_NODE + RANKS_PER_NODE * between / network,
        )
        cells += [f"{1e3 * each:.1f}" for each in seconds]
    return cells


def tables() -> str:
    """Both tables."""
    cases = [(model, ranks) for model in MODELS for ranks in RANKS]
    kinds = ("loss", "DDP", "FSDP2", "HSDP")
    header = ["model", "GPUs", "batch", *(f"{kind} GB" for kind in (*kinds, "between nodes"))]
    header += ["encoder ms", "loss ms", "AdamW ms"]
    network_header = ["model", "GPUs"]
    network_header += [f"{kind}, {network}" for network in NETWORKS for kind in kinds]
    return "\n\n".join(
        (
            table("What one GPU sends and computes", header, [sizes(*case) for case in cases]),
            table("ms of collectives", network_header, [times(*case) for case in cases]),
        )
    )


if __name__ == "__main__":
    print(tables())
