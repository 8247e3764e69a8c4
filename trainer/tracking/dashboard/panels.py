"""The sections and panels of the dashboard. The workspace, its table in the docs and its picture
are made from this list.
"""

from dataclasses import dataclass
from typing import Literal

from trainer.evaluation.results import MAIN_METRIC

PanelKind = Literal["line", "bar", "scatter", "importance", "comparison", "tables"]


@dataclass(frozen=True)
class Panel:
    """One panel: curves over steps, bars of the summary per run, and so on."""

    title: str
    metrics: tuple[str, ...] = ()
    kind: PanelKind = "line"
    is_logarithmic: bool = False


@dataclass(frozen=True)
class PanelSection:
    """A section of the workspace."""

    title: str
    panels: tuple[Panel, ...]


def _train(*names: str) -> tuple[str, ...]:
    return tuple(f"train/{name}" for name in names)


_BEST = f"best/validation_{MAIN_METRIC}"
_TEST = f"test/fine-tuned/{MAIN_METRIC}"

SECTIONS = (
    PanelSection(
        "Loss",
        (
            Panel("Loss", _train("loss")),
            Panel("Learning rate", _train("learning_rate")),
            Panel("Temperature", _train("temperature")),
            Panel("Gradient norm before clipping", _train("gradient_norm"), is_logarithmic=True),
            Panel(
                "Gradient norm by layers",
                _train(
                    "gradient_norm_embeddings",
                    "gradient_norm_lower_layers",
                    "gradient_norm_middle_layers",
                    "gradient_norm_upper_layers",
                    "gradient_norm_head",
                ),
                is_logarithmic=True,
            ),
        ),
    ),
    PanelSection(
        "Retrieval quality",
        (
            Panel("Validation nDCG@10", (f"validation/{MAIN_METRIC}",)),
            Panel("Validation recall", ("validation/recall@10", "validation/recall@100")),
            Panel(
                "Test nDCG@10: fine-tuned, base, BM25",
                (_TEST, f"test/base/{MAIN_METRIC}", f"test/BM25/{MAIN_METRIC}"),
                "bar",
            ),
            Panel(
                "Test: fine-tuned minus base, with its 95 % interval",
                (
                    "test/fine-tuned/difference_to_base_low",
                    "test/fine-tuned/difference_to_base",
                    "test/fine-tuned/difference_to_base_high",
                ),
                "bar",
            ),
            Panel(
                "p-value against base and BM25",
                ("test/fine-tuned/p_value_to_base", "test/fine-tuned/p_value_to_BM25"),
                "bar",
            ),
            Panel(
                "Queries that were gained and lost",
                ("tables/gained_queries", "tables/lost_queries"),
                "tables",
            ),
        ),
    ),
    PanelSection(
        "Negatives",
        (
            Panel("Effective negatives per query", _train("effective_negatives_per_query")),
            Panel("Masked false negatives", _train("masked_false_negatives")),
            Panel("Alignment: lower is closer", _train("alignment")),
            Panel("Uniformity: lower is more spread out", _train("uniformity")),
            Panel("Mined negatives: suspected false ones", ("refresh/suspected_false_negatives",)),
            Panel(
                "Mined and suspected false negatives",
                ("tables/mined_negatives", "tables/suspected_false_negatives"),
                "tables",
            ),
        ),
    ),
    PanelSection(
        "Throughput",
        (
            Panel("Tokens per second", _train("tokens_per_second")),
            Panel("Pairs per second", _train("pairs_per_second")),
            Panel("Tokens per step", _train("tokens")),
            Panel("Share of padding", _train("padding_ratio")),
        ),
    ),
    PanelSection(
        "Hardware",
        (
            Panel("Share of the matrix peak", _train("matrix_peak_ratio")),
            Panel("Memory, in gigabytes", _train("memory_gigabytes")),
            Panel("GPU in use, in percent", ("system/gpu.0.gpu",)),
            Panel("CPU in use, in percent", ("system/cpu",)),
        ),
    ),
    PanelSection(
        "Comparison of runs",
        (
            Panel("Recipes and results", (), "comparison"),
            Panel("Test against validation", (f"best/validation_{MAIN_METRIC}", _TEST), "scatter"),
            Panel(
                "What matters for the validation score",
                (f"best/validation_{MAIN_METRIC}",),
                "importance",
            ),
        ),
    ),
)
