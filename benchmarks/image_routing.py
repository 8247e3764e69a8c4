"""What a router gains where one of the routes is a view of images: nDCG@10 and cost, by the kind of
the query.

The documents are icons. The routes are BM25 and all-MiniLM-L6-v2 on their names, and a view of
their pictures. A query is the name of an icon, another caption of it, or the picture of an icon of
that name in another style. The router learns from all dev queries, which are in words.
"""

import argparse
import contextlib
import json
import random
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring.data import REAL_DATA, model_folder
from measuring.record import save, table

LIMIT = 0.5
KINDS = ("name", "caption", "picture")
"""The beginnings of the ids of queries."""


def write_data(icons: Path, style: Path, target: Path, most: int) -> None:
    """Writes the names of icons as documents, and at most so many test queries per kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = {key: key.replace("-", " ") for key in read_images(icons)}
    pictures = {key: image for key, image in read_images(style).items() if key in names}
    rows = map(json.loads, (icons / "queries.jsonl").read_text().splitlines())
    captions = {row["_id"]: row["text"] for row in rows}
    (target / "qrels").mkdir(parents=True)
    write_rows(target / "corpus.jsonl", names.items())
    texts: dict[str, str] = {}
    for split in ("dev", "test"):
        answers: dict[str, set[str]] = {}
        for line in (icons / f"qrels/{split}.tsv").read_text().splitlines()[1:]:
            query, icon, _ = line.split("\t")
            answers.setdefault(query, set()).add(icon)
        queries = {
            ("name-" if captions[query] in map(names.get, own) else "caption-") + query: own
            for query, own in answers.items()
        }
        if split == "test":
            queries |= {f"picture-{key}": {key} for key in pictures}
            queries = sample(queries, most)
        texts |= {
            query: captions[query.partition("-")[2]]
            for query in queries
            if not query.startswith("picture-")
        }
        judgements = [f"{query}\t{icon}\t1" for query, own in queries.items() for icon in own]
        lines = ["query-id\tcorpus-id\tscore", *judgements, ""]
        (target / f"qrels/{split}.tsv").write_text("\n".join(lines))
    write_rows(target / "queries.jsonl", texts.items())
    columns = {"_id": [f"picture-{key}" for key in pictures], "image": list(pictures.values())}
    pq.write_table(pa.table(columns), target / "queries.parquet")


def read_images(folder: Path) -> dict[str, bytes]:
    """The images of a folder of judged images by id."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "corpus.parquet").to_pylist()
    return {row["_id"]: row["image"] for row in rows}


def write_rows(path: Path, texts: Iterable[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in texts))


def sample(queries: dict[str, set[str]], most: int) -> dict[str, set[str]]:
    """At most so many queries of each kind."""
    generator = random.Random(0)
    chosen = []
    for kind in KINDS:
        ids = sorted(query for query in queries if query.startswith(f"{kind}-"))
        chosen += generator.sample(ids, min(most, len(ids)))
    return {query: queries[query] for query in chosen}


def measurements(model: str, icons: Path, style: Path, most: int) -> dict[str, Any]:
    """Evaluations of the router on all test queries, and on those of each kind in words."""
    from trainer.data.retrieval_set import read_retrieval_set
    from trainer.evaluation.systems.open import DEFAULTS
    from trainer.retrieval.indexes.index_corpus import index_corpus
    from trainer.routing.answers import ask_routes
    from trainer.routing.features import WordCounts
    from trainer.routing.fit import fit_router
    from trainer.routing.measure import evaluate_router

    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        data, index = Path("data"), Path("index")
        write_data(icons, style, data, most)
        index_corpus(model, icons, index, view="image")
        index_corpus(model_folder(), data, index, view="names")
        routes = ["bm25", *(f"index:{index}/views/{view}" for view in ("image", "names"))]
        dev, test = (read_retrieval_set(str(data), split) for split in ("dev", "test"))
        learned, measured = (ask_routes(routes, part, DEFAULTS, str, print) for part in (dev, test))
    router = fit_router(learned, WordCounts.of(dev.documents))
    evaluations = {"all": evaluate_router(router, measured, LIMIT)}
    ids = measured.judged_set.query_ids
    for kind in KINDS[:2]:
        rows = np.array([row for row, query in enumerate(ids) if query.startswith(f"{kind}-")])
        part = replace(
            measured,
            queries=tuple(measured.queries[row] for row in rows),
            qualities=measured.qualities[rows],
            documents=tuple(measured.documents[row] for row in rows),
            images=None,
        )
        evaluations[kind] = evaluate_router(router, part, LIMIT)
    return evaluations


def main(arguments: argparse.Namespace) -> None:
    from trainer.routing.table import evaluation_content

    icons = REAL_DATA / "icons"
    if arguments.style is None or not icons.is_dir():
        print("skipped: name a model and icons of another style; no icons are in the repository")
        return
    model, style = (str(Path(folder).resolve()) for folder in (arguments.model, arguments.style))
    evaluations = measurements(model, icons, Path(style), arguments.queries)
    evaluations["in words"] = evaluations["all"].in_words
    rows = [
        [
            kind,
            Path(row.name).name,
            f"{row.quality.mean:.3f} ({row.quality.low:.3f}-{row.quality.high:.3f})",
            "-" if row.cost is None else f"{row.cost:.2f}",
            f"{evaluation.shares[row.name]:.0%}" if row.name in evaluation.shares else "",
        ]
        for kind, evaluation in evaluations.items()
        for row in evaluation.rows
    ]
    text = table(
        "a router with a view of images", ["queries", "", "nDCG@10", "cost", "asked for"], rows
    )
    results = {kind: evaluation_content(each) for kind, each in evaluations.items()}
    save("image-routing", f"{text}\n{evaluations['all']}", results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", help="a model of images and captions, trained on the icons"
    )
    parser.add_argument(
        "style",
        nargs="?",
        help="judged images of the same names, as icon_styles.py --target keeps them",
    )
    parser.add_argument(
        "--queries", type=int, default=300, help="test queries per kind (default: %(default)s)"
    )
    main(parser.parse_args())
