"""Runs under the Python of `.venv-pylate`: reads a job a line from standard input, answers each
with a line on what was standard output.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    """Makes, reads, saves and encodes with PyLate as the jobs say, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print is no answer
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            work(json.loads(line))
            answers.write("done\n")
        except Exception as error:
            answers.write(f"{type(error).__name__}: {error}".replace("\n", " ") + "\n")


def work(job: dict[str, Any]) -> None:
    """Opens `model` with `settings`; saves it to `save`; writes vectors and scores of `texts`, or
    loss and gradient of `pairs`, to `out`. Or it runs `code` and writes its `queries`.
    """
    import torch
    from pylate import losses, models, scores
    from safetensors.torch import save_file

    torch.manual_seed(5)
    model = models.ColBERT(job["model"], device="cpu", **job.get("settings", {})).eval()
    if "save" in job:
        model.save_pretrained(job["save"])
    found = {}
    if "code" in job:
        names = {}
        exec(job["code"], names)
        found = {"queries": torch.tensor(names["queries"][0])}
    if "texts" in job:
        settings = {"convert_to_tensor": True, "show_progress_bar": False, **job.get("encode", {})}
        queries = model.encode(
            job["texts"], is_query=True, prompt_name=job.get("query_prompt"), **settings
        )
        documents = model.encode(
            job["texts"], is_query=False, prompt_name=job.get("document_prompt"), **settings
        )
        found = {f"query.{index}": value for index, value in enumerate(queries)} | {
            f"document.{index}": value for index, value in enumerate(documents)
        }
        found["scores"] = torch.tensor(
            [
                [
                    scores.colbert_scores(query[None], document[None]).item()
                    for document in documents
                ]
                for query in queries
            ]
        )
    if "pairs" in job:
        queries, documents = zip(*job["pairs"], strict=True)
        features = [
            model.tokenize(list(queries), is_query=True, pad=True),
            model.tokenize(list(documents), is_query=False, pad=True),
        ]
        loss = losses.Contrastive(model, temperature=job["temperature"])(features)
        loss.backward()
        found = {"loss": loss.detach(), "projection": model[1].linear.weight.grad}
    if found:
        save_file({name: value.contiguous() for name, value in found.items()}, job["out"])


if __name__ == "__main__":
    main()
