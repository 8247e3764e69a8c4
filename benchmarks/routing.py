"""What a router gains on queries of one kind and on mixed ones: nDCG@10 and cost, beside routes,
all routes combined, and the best route per query.

The queries of one kind are the questions of azure-cli. The mixed ones are these, and as many
keyword queries: two or three words of a document, each of which is in 2 to 200 documents, whose
answer is that document. The router learns from dev queries and is measured on test queries.
"""

import argparse
import json
import random
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from measuring.data import present
from measuring.record import save, table

WORD = re.compile(r"\w\w+")
LIMITS = (0.25, 0.5, 1.0)


def write_mixed(source: Path, target: Path, queries: int) -> Path:
    """Writes so many questions and so many keyword queries per split. Returns the folder."""
    (target / "qrels").mkdir(parents=True)
    lines = (source / "corpus.jsonl").read_text().splitlines(keepends=True)
    (target / "corpus.jsonl").write_text("".join(lines))
    generator = random.Random(0)
    keywords = keyword_queries(list(map(json.loads, lines)), generator)
    rows = map(json.loads, (source / "queries.jsonl").read_text().splitlines())
    texts = {row["_id"]: row["text"] for row in rows}
    written: dict[str, str] = {}
    for split in ("dev", "test"):
        header, *judgements = (source / f"qrels/{split}.tsv").read_text().splitlines()
        ids = list(dict.fromkeys(line.split("\t")[0] for line in judgements))
        chosen = set(generator.sample(ids, min(queries, len(ids))))
        judgements = [line for line in judgements if line.split("\t")[0] in chosen]
        written |= {name: texts[name] for name in ids if name in chosen}
        for number in range(len(chosen)):
            document, words = next(keywords)
            written[f"keywords-{split}-{number}"] = words
            judgements.append(f"keywords-{split}-{number}\t{document}\t1")
        (target / f"qrels/{split}.tsv").write_text("\n".join([header, *judgements]) + "\n")
    rows_of_queries = [{"_id": name, "text": text} for name, text in written.items()]
    content = "".join(json.dumps(row) + "\n" for row in rows_of_queries)
    (target / "queries.jsonl").write_text(content)
    return target


def keyword_queries(documents: list[dict[str, str]], generator: random.Random) -> Any:
    """Yields a document's id and words of it; no document twice."""
    words = {row["_id"]: WORD.findall(f"{row['title']} {row['text']}".lower()) for row in documents}
    counts = Counter(word for own in words.values() for word in set(own))
    for name in generator.sample(list(words), len(words)):
        known = [word for word in dict.fromkeys(words[name]) if 2 <= counts[word] <= 200]
        known = [word for word in known if not word.isdigit()]
        if len(known) >= 3:
            yield name, " ".join(generator.sample(known, generator.choice([2, 3])))


def measurements(routes: list[str], folder: Path) -> list[Any]:
    """Evaluations of a router at each limit of the cost."""
    from trainer.data.retrieval_set import read_retrieval_set
    from trainer.evaluation.systems.open import DEFAULTS
    from trainer.routing.answers import ask_routes
    from trainer.routing.features import WordCounts
    from trainer.routing.fit import fit_router
    from trainer.routing.measure import evaluate_router

    dev, test = (read_retrieval_set(str(folder), split) for split in ("dev", "test"))
    learned, measured = (ask_routes(routes, part, DEFAULTS, str, print) for part in (dev, test))
    router = fit_router(learned, WordCounts.of(dev.documents))
    return [evaluate_router(router, measured, limit) for limit in LIMITS]


def rows_of(name: str, evaluations: list[Any]) -> list[list[str]]:
    from trainer.routing.measure import ROUTER_NAME

    rows = [(row.name, row) for row in evaluations[0].rows if row.name != ROUTER_NAME]
    rows += [
        (f"router, cost at most {evaluation.limit:g}", evaluation.row(ROUTER_NAME))
        for evaluation in evaluations
    ]
    return [
        [
            name,
            label,
            f"{row.quality.mean:.3f} ({row.quality.low:.3f}-{row.quality.high:.3f})",
            "-" if row.cost is None else f"{row.cost:.2f}",
        ]
        for label, row in rows
    ]


def main(arguments: argparse.Namespace) -> None:
    from trainer.routing.table import evaluation_content

    if (questions := present("azure-cli")) is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        mixed = write_mixed(questions, Path(folder) / "mixed", arguments.queries)
        sets = {"questions": questions, "mixed": mixed}
        evaluations = {name: measurements(arguments.routes, path) for name, path in sets.items()}
    rows = [row for name, found in evaluations.items() for row in rows_of(name, found)]
    text = table("a router on azure-cli", ["queries", "", "nDCG@10", "cost"], rows)
    verdicts = [f"{name}: {found[1]}" for name, found in evaluations.items()]
    results = {name: list(map(evaluation_content, found)) for name, found in evaluations.items()}
    save("routing", "\n".join([text, *verdicts]), results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("routes", nargs="+", help="routes, as for nearfar route fit")
    parser.add_argument("--queries", type=int, default=500, help="questions per split")
    main(parser.parse_args())
