"""Named BEIR sets (Thakur et al. 2021) from the hub, through `datasets`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import BadData

HUB_SETS: tuple[str, ...] = (
    "arguana",
    "climate-fever",
    "dbpedia-entity",
    "fever",
    "fiqa",
    "hotpotqa",
    "msmarco",
    "nfcorpus",
)
HUB_SETS += ("nq", "quora", "scidocs", "scifact", "trec-covid", "webis-touche2020")
_SPLITS = {"train": "train", "validation": "dev", "dev": "dev", "test": "test"}


@dataclass(frozen=True)
class BeirSet:
    """A retrieval set on its way to disk: records, and (query id, document id, score) of each
    split.
    """

    corpus: Iterable[dict[str, str]]
    queries: Iterable[dict[str, str]]
    qrels: dict[str, list[tuple[str, str, int]]]
    readme: str
    source: dict[str, Any] = field(default_factory=dict)


def fetch_beir(name: str) -> BeirSet:
    """The BEIR set `name` from the hub data sets `BeIR/<name>` and `BeIR/<name>-qrels`. Raises
    BadData when the hub cannot be reached.
    """
    import datasets

    try:
        corpus = datasets.load_dataset(f"BeIR/{name}", "corpus", split="corpus")
        queries = datasets.load_dataset(f"BeIR/{name}", "queries", split="queries")
        judged = datasets.load_dataset(f"BeIR/{name}-qrels")
    except (
        Exception
    ) as error:  # the hub client raises its own, requests' and the operating system's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadData(
            f"the data set BeIR/{name} could not be read from the hub ({reason}). Connect this"
            " machine to the network and run the command again, or copy the BEIR folder"
            f" (corpus.jsonl, queries.jsonl, qrels/) of {name} here and name that folder in the"
            " recipe."
        ) from error
    return BeirSet(
        corpus=(
            {"_id": str(row["_id"]), "title": row["title"] or "", "text": row["text"] or ""}
            for row in corpus
        ),
        queries=({"_id": str(row["_id"]), "text": row["text"]} for row in queries),
        qrels={
            _SPLITS[split]: [
                (str(row["query-id"]), str(row["corpus-id"]), int(row["score"])) for row in rows
            ]
            for split, rows in judged.items()
            if split in _SPLITS
        },
        readme=(
            f"{name}: from the hub data sets BeIR/{name} and BeIR/{name}-qrels; see their pages for"
            " the licence.\n"
        ),
        source={"name": name, "hub": f"BeIR/{name}"},
    )
