"""Downloads the BEIR data sets (Thakur et al. 2021) from the hub, through `datasets`."""

from functools import partial

from trainer.data.prepare.beir_folder import BeirSet
from trainer.data.readers.hub import load_from_hub

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


def fetch_beir(name: str) -> BeirSet:
    """Returns the BEIR set `name`, from the hub data sets `BeIR/<name>` and `BeIR/<name>-qrels`.

    Raises BadData when the hub cannot be reached.
    """
    load = partial(
        load_from_hub,
        subject=f"the data set BeIR/{name}",
        advice=(
            "Connect this machine to the network and run the command again, or copy the BEIR"
            f" folder (corpus.jsonl, queries.jsonl, qrels/) of {name} here and name that folder in"
            " the recipe."
        ),
    )
    corpus = load(f"BeIR/{name}", "corpus", split="corpus")
    queries = load(f"BeIR/{name}", "queries", split="queries")
    judgements = load(f"BeIR/{name}-qrels")
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
            for split, rows in judgements.items()
            if split in _SPLITS
        },
        readme=(
            f"{name}: from the hub data sets BeIR/{name} and BeIR/{name}-qrels. Their pages give"
            " the licence.\n"
        ),
        source={"name": name, "hub": f"BeIR/{name}"},
    )
