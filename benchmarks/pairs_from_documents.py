"""Whether pairs that `nearfar data pairs` makes from documents alone teach a model to answer real
questions: nDCG@10 of all-MiniLM-L6-v2 before and after, and of BM25 (long).

The corpus of each set is all that is read; its questions are only for the test. Of aws_cli, the
corpus is the answers of the test and a fifth of the other documents, chosen by hash.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring.data import REPOSITORY, present
from measuring.record import save, table

METRIC = "ndcg@10"
OVERRIDES = [
    "optimization.epochs=1",
    "optimization.batch_size=128",
    "optimization.learning_rate=7e-4",
]
SETS = {"azure-cli": [], "squad_dev": [], "tldr": [], "aws_cli": ["optimization.max_steps=20"]}
"""Each set with further changes to the recipe."""
CUT_SETS = {"aws_cli"}


def nearfar(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "trainer", *map(str, words)], check=True, cwd=REPOSITORY)


def cut(folder: Path, target: Path) -> Path:
    """A set with the same test questions and fewer documents."""
    (target / "qrels").mkdir(parents=True, exist_ok=True)
    judgements = (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
    answers = {line.split("\t")[1] for line in judgements}
    with (target / "corpus.jsonl").open("w") as file:
        for line in (folder / "corpus.jsonl").read_text().splitlines():
            key = json.loads(line)["_id"]
            first_byte = hashlib.blake2b(key.encode(), digest_size=8).digest()[0]
            if key in answers or first_byte < 51:
                file.write(line + "\n")
    for name in ("queries.jsonl", "qrels/test.tsv"):
        shutil.copy(folder / name, target / name)
    return target


def trained_on_documents(name: str, folder: Path, output: Path) -> Path:
    """The run that was trained on pairs from the documents of a set. A finished run is kept."""
    run = output / f"documents-{name}"
    if not (run / "evaluation.json").is_file():
        if name in CUT_SETS:
            folder = cut(folder, output / f"{name}-cut")
        pairs = output / f"pairs-{name}"
        nearfar("data", "pairs", folder, "-o", pairs, "--replace")
        words = ["fit", "recipes/bi-encoder-lora.yaml", f"name={run.name}", f"output={output}"]
        data = [f"data.train={pairs}", f"data.test={folder}"]
        nearfar(*words, *data, *OVERRIDES, *SETS[name], "--replace")
    return run


def measurements(run: Path) -> dict[str, Any]:
    """The values of BM25 and of both models per query, and the paired tests."""
    from trainer.evaluation.evaluation_file import read_evaluation

    evaluation = read_evaluation(run / "evaluation.json")
    values = {system.name: system.metrics[METRIC] for system in evaluation.systems}
    return {
        "values": {name: list(map(float, scores)) for name, scores in values.items()},
        "tests": {
            comparison.baseline: asdict(comparison.test)
            for comparison in evaluation.comparisons
            if comparison.metric == METRIC and comparison.system == "fine-tuned"
        },
    }


def row_of(name: str, results: dict[str, Any]) -> list[str]:
    import numpy as np

    from trainer.evaluation.significance import bootstrap_interval

    cells = [name, f"{len(results['values']['base']):,}"]
    for system in ("BM25", "base", "fine-tuned"):
        values = np.array(results["values"][system])
        low, high = bootstrap_interval(values)
        cells.append(f"{values.mean():.3f} ({low:.3f}-{high:.3f})")
    test = results["tests"]["base"]
    difference = f"{test['difference']:+.3f} ({test['low']:+.3f} to {test['high']:+.3f})"
    return [*cells, difference, f"{test['p_value']:.4f}"]


def main(arguments: argparse.Namespace) -> None:
    rows, results = [], {}
    for name in arguments.sets:
        if (folder := present(name)) is None:
            continue
        run = trained_on_documents(name, folder, arguments.output)
        results[name] = measurements(run)
        rows.append(row_of(name, results[name]))
    if rows:
        header = ["", "questions", "BM25", "before", "after", "after - before", "p"]
        title = f"trained on pairs from documents alone: {METRIC} on real questions"
        save("pairs-from-documents", table(title, header, rows), results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--output", type=Path, default=REPOSITORY / "runs")
    main(parser.parse_args())
