"""Encoding of one query of a sparse model at a time: by a table of weights, and by the transformer.

`--model` is a sparse model with a table, `--source` a data set in BEIR layout whose queries are
encoded as a search does it, tokenizer included. The same model without its table is the other
contender. One thread; the contenders take turns, query by query.
"""

import argparse
import copy
from pathlib import Path

from measuring.children import run
from measuring.clocks import Clock
from measuring.record import noise, save, table


def main(arguments: argparse.Namespace) -> None:
    if not arguments.model or not arguments.source:
        print("skipped: give --model, a sparse model with a table of queries, and --source")
        return
    import numpy as np
    import torch

    from trainer.data.retrieval_set import read_retrieval_set
    from trainer.models.sparse import read_sparse_encoder
    from trainer.retrieval.encoding.encode import encode_queries

    torch.set_num_threads(1)
    by_table = read_sparse_encoder(arguments.model)
    assert by_table.query_table is not None
    by_transformer = copy.copy(by_table)
    by_transformer._modules = by_table._modules | {"query_table": None}
    contenders = {"table": by_table, "transformer": by_transformer}
    judged = read_retrieval_set(arguments.source, arguments.split, {}, arguments.queries)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    waits = []
    for query in (*judged.queries[:10], *judged.queries):
        for name, encoder in contenders.items():
            start = Clock.now()
            encode_queries(encoder, [query])
            spent = Clock.now().since(start)
            times[name].append(1000 * spent.processor)
            waits.append(spent.wait_ratio)
    times = {name: values[10:] for name, values in times.items()}  # the first ones warm up
    medians = {name: float(np.median(values)) for name, values in times.items()}
    weights = sum(parameter.numel() for parameter in by_table.backbone.parameters())
    ratio = medians["transformer"] / medians["table"]
    name = arguments.name or Path(arguments.model).name
    title = (
        f"{len(judged.queries):,} queries, {name}, {weights / 1e6:.1f} M weights of documents;"
        f" ratio of medians {ratio:.1f}"
    )
    rows = [
        [name, f"{medians[name]:.2f}", f"{np.quantile(values, 0.95):.2f}"]
        for name, values in times.items()
    ]
    text = table(title, ["queries by", "processor ms per query", "95 %"], rows)
    save(f"query-encoding-{name}", f"{text}\n{noise([float(np.median(waits))])}", times)


if __name__ == "__main__":
    run(__file__, dict, main, model="", source="", split="test", queries=300, name="")
