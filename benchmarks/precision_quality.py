"""What bf16 costs in quality: recipes/quickstart.yaml in fp32 and in bf16, nDCG@10 on the test
queries with 95 % intervals (long).
"""

import argparse
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring.data import REPOSITORY, present
from measuring.record import save, table

METRIC = "ndcg@10"


def fit(precision: str, runs: Path, recipe: str, overrides: list[str]) -> tuple[Any, float]:
    """The fine-tuned system of one run of the real command, and its seconds."""
    import numpy as np

    from trainer.evaluation.evaluation_file import read_evaluation

    name = f"precision-{precision}"
    command = [
        str(Path(sys.executable).with_name("nearfar")),
        "fit",
        recipe,
        f"name={name}",
        f"output={runs}",
        f"machine.precision={precision}",
        *overrides,
        "--replace",
    ]
    start = time.monotonic()
    subprocess.run(command, check=True, cwd=REPOSITORY)
    evaluation = read_evaluation(runs / name / "evaluation.json")
    after = next(system for system in evaluation.systems if system.name == "fine-tuned")
    return np.asarray(after.metrics[METRIC]), time.monotonic() - start


def main(arguments: argparse.Namespace) -> None:
    from trainer.evaluation.significance import bootstrap_interval, paired_test

    if present("azure-cli") is None:
        return
    values, rows, seconds = {}, [], {}
    for precision in ("fp32", "bf16"):
        values[precision], seconds[precision] = fit(
            precision, arguments.output, arguments.recipe, arguments.overrides
        )
        low, high = bootstrap_interval(values[precision])
        rows.append(
            [
                precision,
                f"{values[precision].mean():.4f}",
                f"{low:.4f}-{high:.4f}",
                f"{seconds[precision]:.0f}",
            ]
        )
    test = paired_test(values["fp32"], values["bf16"])
    low, high = bootstrap_interval(values["fp32"])
    inside = low <= values["bf16"].mean() <= high
    title = f"{arguments.recipe}: {METRIC} on {len(values['fp32'])} test queries"
    lines = [
        table(title, ["", METRIC, "95 % interval", "seconds of the run"], rows),
        (
            f"bf16 minus fp32: {test.difference:+.4f} ({test.low:+.4f} to {test.high:+.4f}), p ="
            f" {test.p_value:.3f}"
        ),
        f"bf16 is {'inside' if inside else 'OUTSIDE'} the interval of fp32",
    ]
    save(
        "precision-quality",
        "\n".join(lines),
        {
            "seconds": seconds,
            **{precision: ndcg.tolist() for precision, ndcg in values.items()},
            "bf16_minus_fp32": asdict(test),
        },
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="recipes/quickstart.yaml")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "runs")
    parser.add_argument("overrides", nargs="*", help="changes to both runs: key.sub=value")
    main(parser.parse_args())
