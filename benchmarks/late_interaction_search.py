"""The index of token vectors: time to build, size, time of one search, and how much of exact
search's nDCG@10 is kept.

    python benchmarks/late_interaction_search.py --model FOLDER --source FOLDER_IN_BEIR_LAYOUT

The corpus is encoded once, into --vectors where that is given and then kept for the next time;
every contender builds its index from the same vectors. Searches are timed one query at a time, as a
person or a server asks, without encoding the query. PyLate's indexes run in an environment of their
own: `make setup-pylate`. Its PLAID is the back end that came with ColBERT, in C++ over PyTorch,
compiled when first used: the one in Rust, fast-plaid, ends in a segmentation fault under this
PyTorch (docs/decisions/0006). Voyager is a graph of all token vectors, and PyLate reads which
vector is of which document anew from a pickle for every search. Both as they come, with PyLate's
own settings of effort; ours measures its own. Sizes are without the texts of documents, which
PyLate does not keep. PyLate's process holds all vectors in float32, so its peak is compared with
care.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measuring.children import child, run
from measuring.clocks import Clock, peak_memory_megabytes
from measuring.data import PYLATE
from measuring.record import noise, save, table
from measuring.summary import quantile

CONTENDERS: dict[str, dict[str, Any]] = {
    "exact": {"kind": "exact"},
    "1 bit": {"bits": 1},
    "2 bits": {"bits": 2},
    "4 bits": {"bits": 4},
    "2 bits, pooled by 2": {"bits": 2, "pool_factor": 2},
    "pylate plaid, 2 bits": {"theirs": "PLAID", "use_fast": False, "nbits": 2},
    "pylate voyager": {"theirs": "Voyager"},
}
WARM_UP_SEARCHES = 5


def measure(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    if job["contender"] == "encoding":
        return encode(job)
    return (pylate if "theirs" in CONTENDERS[job["contender"]] else nearfar)(job)


def encode(job: dict[str, Any]) -> dict[str, Any]:
    """Vectors of all documents, then of all queries."""
    import numpy as np

    from trainer.build import hardware
    from trainer.models.families import read_model
    from trainer.recipe.schema.machine import MachineSection
    from trainer.retrieval.encoding.encode import encode

    machine = MachineSection(precision=job["precision"], threads=job["threads"] or None)
    hardware.prepare_machine(machine)
    judged, encoder = judged_set(job), read_model(job["model"])
    start = Clock.now()
    documents = encode(encoder, judged.documents, "document", precision=hardware.precision(machine))
    spent = Clock.now().since(start)
    queries = encode(encoder, judged.queries, "query", precision=hardware.precision(machine))
    offsets = np.concatenate([documents.offsets, documents.offsets[-1] + queries.offsets[1:]])
    np.savez(
        job["vectors"],
        vectors=np.concatenate([documents.rows, queries.rows]).astype(np.float16),
        offsets=offsets,
    )
    return {
        "seconds": spent.wall,
        "processor_seconds": spent.processor,
        "wait_ratio": spent.wait_ratio,
    }


def nearfar(job: dict[str, Any]) -> dict[str, Any]:
    from measuring.stored_vectors import StoredVectors

    from trainer.data.readers.corpus import Document
    from trainer.models.families import read_model
    from trainer.retrieval.token_index.build import Encoding, build_token_index
    from trainer.retrieval.token_index.index import PROBE, TokenIndex

    judged = judged_set(job)
    encoder: Any = StoredVectors(
        Path(job["vectors"]), [*judged.documents, *judged.queries], PROBE, read_model(job["model"])
    )
    queries = encoder.stored.select(judged_rows(judged)).to_padded()
    settings = {
        name: value
        for name, value in (("probes", job["probes"]), ("candidates", job["candidates"]))
        if value
    }
    start = Clock.now()
    with tempfile.TemporaryDirectory(prefix="nearfar-index-", dir=job["folder"]) as temporary:
        documents = (
            Document(id, "", text)
            for id, text in zip(judged.document_ids, judged.documents, strict=True)
        )
        manifest = build_token_index(
            Encoding(encoder),
            "stored vectors",
            documents,
            Path(temporary) / "index",
            **CONTENDERS[job["contender"]],
        )
        built = Clock.now().since(start)
        start = Clock.now()
        index = TokenIndex.open(Path(temporary) / "index")
        index.search(queries[:1], 10)
        opened = Clock.now().since(start)

        def search(query: Any) -> list[tuple[int, float]]:
            scores, rows = index.search(query[None], 10, **settings)
            return [
                (row, score)
                for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)
                if row >= 0
            ]

        searched = searches(queries, search)
    return searched | {
        "build_seconds": built.wall,
        "build_processor_seconds": built.processor,
        "open_seconds": opened.wall,
        "megabytes": manifest.search_bytes / 1e6,
        "share": manifest.share_of_float16,
        "tokens": manifest.tokens,
        "documents": manifest.count,
    }


def pylate(job: dict[str, Any]) -> dict[str, Any]:
    """Runs under the Python of `.venv-pylate`."""
    import numpy as np
    from pylate import indexes, retrieve

    with np.load(job["vectors"], allow_pickle=False) as kept:
        vectors, offsets = kept["vectors"].astype(np.float32), kept["offsets"].tolist()
    every = [vectors[start:stop] for start, stop in itertools.pairwise(offsets)]
    documents, queries = every[: job["documents"]], every[job["documents"] :]
    settings = dict(CONTENDERS[job["contender"]])
    kind = getattr(indexes, settings.pop("theirs"))
    where = {
        "index_folder": job["folder"],
        "index_name": job["contender"],
        "embedding_size": vectors.shape[1],
    }
    compiling = kind(
        override=True, **where | {"index_name": "compiling"}, **settings
    )  # its parts in C++, at the first use on a machine
    compiling.add_documents(
        documents_ids=[str(row) for row in range(64)], documents_embeddings=documents[:64]
    )
    retrieve.ColBERT(compiling).retrieve(queries_embeddings=[queries[0]], k=10)
    start = Clock.now()
    index = kind(override=True, **where, **settings)
    index.add_documents(
        documents_ids=[str(row) for row in range(len(documents))], documents_embeddings=documents
    )
    built = Clock.now().since(start)
    start = Clock.now()
    index = kind(override=False, **where, **settings)
    retriever = retrieve.ColBERT(index)

    def search(query: Any) -> list[tuple[int, float]]:
        return [
            (int(each["id"]), float(each["score"]))
            for each in retriever.retrieve(queries_embeddings=[query], k=10)[0]
        ]

    search(queries[0])
    opened = Clock.now().since(start)
    searched = searches(queries, search)
    stored = sum(
        path.stat().st_size
        for path in (Path(job["folder"]) / job["contender"]).rglob("*")
        if path.is_file()
    )
    return searched | {
        "build_seconds": built.wall,
        "build_processor_seconds": built.processor,
        "open_seconds": opened.wall,
        "megabytes": stored / 1e6,
        "share": stored / (2 * vectors.shape[1] * offsets[job["documents"]]),
        "tokens": offsets[job["documents"]],
        "documents": len(documents),
    }


def searches(
    queries: Sequence[Any], search: Callable[[Any], list[tuple[int, float]]]
) -> dict[str, Any]:
    """What every query found, and how long each search took."""
    for query in queries[:WARM_UP_SEARCHES]:
        search(query)
    times, found = [], []
    searching = Clock.now()
    for query in queries:
        start = Clock.now()
        found.append(search(query))
        times.append(Clock.now().since(start))
    return {
        "found": found,
        "milliseconds": [1000 * one.wall for one in times],
        "processor_milliseconds": [1000 * one.processor for one in times],
        "peak_megabytes": peak_memory_megabytes(),
        "wait_ratio": Clock.now().since(searching).wait_ratio,
    }


def judged_set(job: dict[str, Any]) -> Any:
    from trainer.data.retrieval_set import read_retrieval_set

    return read_retrieval_set(job["source"], job["split"], {}, job["queries"] or None)


def judged_rows(judged: Any) -> Any:
    """Where the queries' vectors are: behind those of the documents."""
    import numpy as np

    return len(judged.documents) + np.arange(len(judged.queries))


def main(arguments: argparse.Namespace) -> None:
    if not arguments.model or not arguments.source:
        print(
            "skipped: give --model, a late-interaction model, and --source, a folder in BEIR layout"
            " with at least 10 000 documents"
        )
        return
    judged = judged_set(vars(arguments))
    with tempfile.TemporaryDirectory(prefix="nearfar-late-") as temporary:
        vectors = Path(arguments.vectors) if arguments.vectors else Path(temporary) / "vectors.npz"
        same = vars(arguments) | {
            "vectors": str(vectors),
            "folder": temporary,
            "documents": len(judged.documents),
        }
        encoding = (
            None
            if vectors.exists()
            else child(__file__, same | {"contender": "encoding"}, timeout_seconds=7200)
        )
        assert texts_in(vectors) == len(judged.documents) + len(judged.queries), (
            f"{vectors} is of another corpus or other queries; remove it"
        )
        results = {}
        for contender in arguments.contenders.split(";"):
            theirs = "theirs" in CONTENDERS[contender]
            if theirs and not (PYLATE / ".made").is_file():
                print(
                    f"{contender}: skipped, PyLate's environment is not there; run `make"
                    " setup-pylate`",
                    flush=True,
                )
                continue
            python = {"python": str(PYLATE / "bin" / "python")} if theirs else {}
            results[contender] = judge(
                judged,
                contender,
                child(__file__, same | {"contender": contender} | python, timeout_seconds=7200),
            )
            print(
                f"{contender}: nDCG@10"
                f" {statistics.mean(results[contender]['ndcg_of_queries']):.4f}",
                flush=True,
            )
    results = compared(results)
    save(
        f"late-interaction-search-{Path(arguments.source).name}",
        report(arguments, results, encoding),
        {"encoding": encoding, **results},
    )


def compared(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each result with the paired test of its nDCG@10 against that of the first."""
    import numpy as np

    from trainer.evaluation.significance import paired_test

    values = {name: np.array(one["ndcg_of_queries"]) for name, one in results.items()}
    first = next(iter(values.values()))
    return {
        name: one | {"paired_with_first": asdict(paired_test(first, values[name]))}
        for name, one in results.items()
    }


def texts_in(vectors: Path) -> int:
    import numpy as np

    with np.load(vectors, allow_pickle=False) as kept:
        return len(kept["offsets"]) - 1


def judge(judged: Any, contender: str, measured: dict[str, Any]) -> dict[str, Any]:
    """With nDCG@10 in place of what was found."""
    from trainer.evaluation.evaluate import evaluate_run
    from trainer.evaluation.results import MAIN_METRIC

    found = measured.pop("found")
    run = {
        name: {judged.document_ids[row]: score for row, score in each}
        for name, each in zip(judged.query_ids, found, strict=True)
    }
    return measured | {
        "ndcg_of_queries": [
            float(value) for value in evaluate_run(run, judged, contender).metrics[MAIN_METRIC]
        ]
    }


def report(
    arguments: argparse.Namespace,
    results: dict[str, dict[str, Any]],
    encoding: dict[str, Any] | None,
) -> str:
    import numpy as np

    exact = next(iter(results.values()))  # what the others are compared with
    exactly = np.array(exact["ndcg_of_queries"])
    rows = []
    for contender, one in results.items():
        times, processor = one["milliseconds"], statistics.median(one["processor_milliseconds"])
        tail = quantile(times, 0.95)
        test = one["paired_with_first"]
        low, high = (1 + test[end] / exactly.mean() for end in ("low", "high"))
        rows.append(
            [
                contender,
                f"{one['build_seconds']:.0f}",
                f"{one['build_processor_seconds']:.0f}",
                f"{one['megabytes']:.1f}",
                f"{one['share']:.4f}",
                f"{statistics.median(times):.1f}",
                f"{tail:.1f}",
                f"{processor:.1f}",
                f"{statistics.mean(one['ndcg_of_queries']):.4f}",
                f"{1 + test['difference'] / exactly.mean():.2%} [{low:.2%}, {high:.2%}]",
                f"{one['peak_megabytes']:.0f}",
            ]
        )
    header = [
        "",
        "build s",
        "processor s",
        "MB",
        "of float16",
        "p50 ms",
        "p95 ms",
        "p50 processor ms",
        "nDCG@10",
        "kept [95 %]",
        "peak MB",
    ]
    title = (
        f"{Path(arguments.source).name}: {exact['documents']:,} documents, {exact['tokens']:,}"
        f" vectors, {len(exact['milliseconds']):,} queries"
    )
    spent = (
        "the vectors were there"
        if encoding is None
        else (
            f"encoding {encoding['seconds']:.0f} s, {encoding['processor_seconds']:.0f} processor s"
        )
    )
    return "\n".join(
        [
            table(f"{title}; {spent}", header, rows),
            noise([one["wait_ratio"] for one in results.values()]),
        ]
    )


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        model="",
        source="",
        split="test",
        queries=500,
        vectors="",
        precision="auto",
        threads=0,
        probes=0,
        candidates=0,
        contenders=";".join(CONTENDERS),
    )
