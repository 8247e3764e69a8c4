"""Encoding: texts per second against SentenceTransformer.encode as it comes (batches of 32), and
the same vectors. `--former FOLDER` also measures the code of that checkout.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measuring.children import run
from measuring.contest import Results, former_jobs, on_each_set, speed_rows, take_turns
from measuring.data import documents, model_folder
from measuring.encoding import ours, speed
from measuring.record import noise, table

CONTENDERS = {
    "nearfar fp32": ("ours", "fp32"),
    "sentence-transformers fp32": ("theirs", "fp32"),
    "nearfar default": ("ours", "auto"),
}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    import torch

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    vectors, found = speed(
        ours(job) if job["who"] == "ours" else theirs(job),
        documents(Path(job["source"]), job["texts"]),
    )
    np.save(job["vectors"], vectors)
    return found


def theirs(job: dict[str, Any]) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job["model"], device="cpu")
    return lambda texts: model.encode(texts, show_progress_bar=False)


def compare(name: str, source: Path, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="nearfar-speed-") as temporary:
        paths = {
            contender: str(Path(temporary) / f"{number}.npy")
            for number, contender in enumerate(CONTENDERS)
        }
        same = {
            "source": str(source),
            "texts": arguments.texts,
            "threads": arguments.threads,
            "model": model_folder(),
            "micro_batch_tokens": arguments.tokens,
        }
        jobs = {
            contender: {**same, "who": who, "precision": precision, "vectors": paths[contender]}
            for contender, (who, precision) in CONTENDERS.items()
        }
        jobs |= former_jobs(jobs, arguments.former)
        results = take_turns(__file__, name, jobs, arguments.turns, "texts", timeout_seconds=900)
        mine, other, default = (np.load(paths[contender]) for contender in CONTENDERS)
    difference = float(np.abs(mine - other).max())
    assert difference < 1e-5, f"the vectors differ by {difference}"
    cosine = float((default * other).sum(1).min())
    return report(name, results, difference, cosine, arguments), results


def report(
    name: str, results: Results, difference: float, cosine: float, arguments: argparse.Namespace
) -> str:
    base = "sentence-transformers fp32"
    header, rows = speed_rows(results, base, "texts", ("peak_megabytes",))
    title = f"{name}: {arguments.turns} turns of {results[base][0]['texts']} documents" + (
        f", {arguments.threads} threads" if arguments.threads else ""
    )
    return "\n".join(
        [
            table(f"{title}; median (range)", [*header, "peak MB"], rows),
            (
                f"largest difference of a number in fp32: {difference:.1e}; smallest cosine of our "
                f"default to theirs: {cosine:.5f}"
            ),
            noise([one["wait_ratio"] for runs in results.values() for one in runs]),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    on_each_set("encoding-speed", compare, arguments)


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        data="azure-cli,pycode",
        texts=2000,
        turns=3,
        threads=0,
        tokens=0,
        former="",
    )
