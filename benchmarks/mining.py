"""Mining hard negatives: candidates a second and memory against sentence-transformers'
`mine_hard_negatives`, on the same vectors.

    python benchmarks/mining.py

Both get texts, training pairs and vectors that are computed already, look at the same ranks under
the same limit, and must choose the same negatives. Ours writes its output to disk, theirs makes a
data set in memory. A last run has ten times the documents. Vectors lie in clusters, as texts do.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring.children import child, run
from measuring.clocks import Clock, forget_peak_memory, peak_memory_megabytes
from measuring.record import noise, save, spread, table

DIMENSIONS, CLUSTERS = 384, 300
DEPTH, NEGATIVES, RELATIVE_MARGIN = 50, 5, 0.05
"""Documents looked at for each query, negatives written, and how far below the positive's score
they are: NV-Retriever's 95 percent.
"""
WORDS = [
    "create",
    "delete",
    "disk",
    "storage",
    "account",
    "region",
    "machine",
    "query",
    "list",
    "show",
    "update",
    "network",
    "vault",
    "key",
    "image",
    "policy",
    "group",
    "server",
    "database",
    "backup",
]


def measure(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    torch.set_num_threads(job["threads"])
    queries, documents = vectors(job["queries"], job["documents"], Path(job["folder"]))
    asked, found = (
        [text(role, number) for number in range(count)]
        for role, count in (("question", job["queries"]), ("answer", job["documents"]))
    )
    return {"ours": ours, "theirs": theirs}[job["contender"]](job, queries, documents, asked, found)


def vectors(queries: int, documents: int, folder: Path) -> tuple[Any, Any]:
    """Vectors of length 1, kept in `folder` and mapped from there. The first documents are the
    queries' positives.
    """
    import numpy as np

    paths = [folder / f"{role}-{queries}-{documents}.npy" for role in ("queries", "documents")]
    if not paths[1].exists():
        generator = np.random.default_rng(0)
        centres = generator.standard_normal((CLUSTERS, DIMENSIONS), np.float32)

        def near(points: Any, distance: float) -> Any:
            moved = points + distance * generator.standard_normal(points.shape, np.float32)
            return moved / np.linalg.norm(moved, axis=1, keepdims=True)

        parts = [
            near(centres[generator.integers(0, CLUSTERS, count)], 1.0)
            for count in [10_000] * (documents // 10_000) + [documents % 10_000]
            if count
        ]
        whole = np.concatenate(parts)
        np.save(paths[0], near(whole[:queries], 0.05))
        np.save(paths[1], whole)
    return tuple(np.load(path, mmap_mode="c") for path in paths)


def text(role: str, number: int) -> str:
    """A sentence of some ten words that no other text is like."""
    return f"{role} {number} " + " ".join(
        WORDS[(number * (7 + place) + place) % len(WORDS)] for place in range(8)
    )


def ours(
    job: dict[str, Any], queries: Any, documents: Any, asked: list[str], found: list[str]
) -> dict[str, Any]:
    import numpy as np

    from trainer.data.rows import Row, Rows
    from trainer.mining import spaces
    from trainer.mining.choose import MiningRules
    from trainer.mining.mine import mine_shards
    from trainer.mining.task import read_task, write_task
    from trainer.mining.work import NEGATIVES as OUTPUT
    from trainer.mining.work import WorkFolder
    from trainer.vectors.dense import DenseVectors

    class Ready(spaces.Space):
        """The space of a model whose vectors are there."""

        def _encode(self, role: Any, texts: Any, size: int) -> None:
            path = (queries if role == "query" else documents).filename
            for block, first in enumerate(range(0, len(texts), size)):
                # Let go of at once: pages of the benchmark's own file are not the miner's memory.
                rows = np.array(np.load(path, mmap_mode="r")[first : first + size])
                DenseVectors(rows).save(self._folder, f"{role}-{block:06}")

    class Device:
        device, vectors = "cpu", DenseVectors

    rows = Rows.of(Row(query, positive) for query, positive in zip(asked, found, strict=False))
    options = MiningRules(
        negatives=NEGATIVES, depth=DEPTH, percent_of_positive=0, relative_margin=RELATIVE_MARGIN
    )
    with tempfile.TemporaryDirectory(dir=job["folder"]) as temporary:
        folder = WorkFolder(Path(temporary))
        folder.begin({}, replace=False)
        before, start = forget_peak_memory(), Clock.now()
        write_task(folder.work, rows, found)
        task = read_task(folder.work)
        space = Ready(Device(), task, folder.work / "model")  # type: ignore[arg-type]
        report = mine_shards(folder, {}, task, space, options)
        spent = Clock.now().since(start)
        peak = peak_memory_megabytes() - before
        lines = [json.loads(line) for line in (folder.path / OUTPUT).open(encoding="utf-8")]
    negatives = {
        line["query"]: line["negatives"] for line in lines if len(line["negatives"]) == NEGATIVES
    }
    return measured(job, spent, before, peak, negatives) | {
        "written": sum(report["negatives"].values())
    }


def theirs(
    job: dict[str, Any], queries: Any, documents: Any, asked: list[str], found: list[str]
) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from sentence_transformers.util import cos_sim, mine_hard_negatives, pairwise_cos_sim

    class Ready:
        """What `mine_hard_negatives` asks of a model, with vectors that are there."""

        device = torch.device("cpu")
        similarity, similarity_pairwise = staticmethod(cos_sim), staticmethod(pairwise_cos_sim)

        def encode_query(self, texts: list[str], **_: Any) -> Any:
            return queries

        def encode_document(self, texts: list[str], **_: Any) -> Any:
            return documents

    data = Dataset.from_dict({"query": asked, "positive": found[: len(asked)]})
    before, start = forget_peak_memory(), Clock.now()
    mined = mine_hard_negatives(
        data,
        Ready(),
        corpus=found,
        range_max=DEPTH,
        relative_margin=RELATIVE_MARGIN,
        num_negatives=NEGATIVES,
        output_format="n-tuple",
        output_scores=True,
        verbose=False,
    )  # type: ignore[arg-type]
    spent = Clock.now().since(start)
    peak = peak_memory_megabytes() - before
    columns = [mined[f"negative_{number}"] for number in range(1, NEGATIVES + 1)]
    negatives = {query: list(texts) for query, *texts in zip(mined["query"], *columns, strict=True)}
    return measured(job, spent, before, peak, negatives) | {"written": NEGATIVES * len(mined)}


def measured(
    job: dict[str, Any], spent: Clock, before: float, peak: float, negatives: dict[str, list[str]]
) -> dict[str, Any]:
    """What a contender reports: `negatives` are those of the queries that have all that were asked
    for, which their format is limited to.
    """
    candidates = job["queries"] * DEPTH
    path = Path(job["folder"]) / f"negatives-{job['contender']}-{job['documents']}.json"
    path.write_text(json.dumps(negatives))
    return {
        "candidates_per_second": candidates / spent.wall,
        "candidates_per_processor_second": candidates / spent.processor,
        "processor_seconds": spent.processor,
        "before_megabytes": before,
        "peak_megabytes": peak,
        "wait_ratio": spent.wait_ratio,
        "full": len(negatives),
        "negatives": str(path),
    }


def agreement(one: str, other: str) -> float:
    """The share of queries with the very same negatives."""
    first, second = (json.loads(Path(path).read_text()) for path in (one, other))
    return sum(first.get(query) == negatives for query, negatives in second.items()) / max(
        1, len(first.keys() | second.keys())
    )


def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="nearfar-mining-") as folder:
        same = {
            "threads": arguments.threads,
            "folder": folder,
            "queries": arguments.queries,
            "documents": arguments.documents,
        }
        results: dict[str, list[dict[str, Any]]] = {"theirs": [], "ours": []}
        for turn in range(arguments.turns):
            for contender, runs in results.items():
                runs.append(child(__file__, same | {"contender": contender}, timeout_seconds=1800))
                print(
                    f"turn {turn + 1} {contender}: {runs[-1]['processor_seconds']:.1f} processor s,"
                    f" {runs[-1]['peak_megabytes']:.0f} MB",
                    flush=True,
                )
        alike = agreement(results["ours"][0]["negatives"], results["theirs"][0]["negatives"])
        assert alike > 0.999, (
            f"the two choose other negatives: only {alike:.2%} of the queries have the same"
        )
        tenfold = (
            child(
                __file__,
                same | {"contender": "ours", "documents": 10 * arguments.documents},
                timeout_seconds=3600,
            )
            if arguments.tenfold
            else None
        )
    save(
        "mining",
        report(arguments, results, tenfold, alike),
        {"results": results, "tenfold": tenfold, "alike": alike},
    )


def report(
    arguments: argparse.Namespace,
    results: dict[str, list[dict[str, Any]]],
    tenfold: dict[str, Any] | None,
    alike: float,
) -> str:
    def cells(
        name: str, runs: list[dict[str, Any]], base: list[dict[str, Any]] | None
    ) -> list[str]:
        found = [name]
        for key in ("candidates_per_second", "candidates_per_processor_second"):
            ratio = (
                statistics.median(one[key] for one in runs)
                / statistics.median(one[key] for one in base)
                if base
                else None
            )
            found += [
                spread([one[key] / 1000 for one in runs]),
                "" if ratio is None else f"{ratio:.2f}x",
            ]
        return [
            *found,
            spread([one["processor_seconds"] for one in runs]),
            spread([one["peak_megabytes"] for one in runs], 0),
        ]

    rows = [cells(name, runs, results["theirs"]) for name, runs in results.items()]
    if tenfold is not None:
        rows.append(cells("ours, 10 times the documents", [tenfold], None))
    title = (
        f"{arguments.queries:,} queries, {arguments.documents:,} documents, {DIMENSIONS}"
        f" dimensions, {DEPTH} candidates a query, {NEGATIVES} negatives, {arguments.threads}"
        f" threads; {alike:.2%} of the queries have the same negatives"
    )
    header = [
        "",
        "thousand candidates/s",
        "ratio",
        "of a processor second",
        "ratio",
        "processor s",
        "MB above the start",
    ]
    waits = [one["wait_ratio"] for runs in results.values() for one in runs]
    return "\n".join([table(title, header, rows), noise(waits)])


if __name__ == "__main__":
    run(__file__, measure, main, queries=20_000, documents=30_000, turns=3, threads=1, tenfold=1)
