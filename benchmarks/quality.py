"""What the recipes do to all-MiniLM-L6-v2: nDCG@10 on the test questions of ten data sets
before and after, and on two collections that the model was not trained on; beside BM25 and
sentence-transformers as it documents its training (long; a run that was ended goes on).

Every model searches the whole corpus of its set. What is chosen (the share of the change by
training that is kept) is chosen on dev. Several seeds are means per query.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring.cuts import Cut, training_pairs, write_cut
from measuring.data import DATA_SETS, MINILM, REPOSITORY, present
from measuring.record import save, table

SETS = {
    "azure-cli 150": Cut("azure-cli", 150),
    "squad 550, 90 documents": Cut("squad_dev", 600, train_documents=90),
    "azure-cli 800": Cut("azure-cli", 800),
    "tldr 1 000": Cut("tldr", 1_000),
    "pycode 600": Cut("pycode", 600),
    "aws_cli 1 500": Cut("aws_cli", 1_500),
    "squad 2 000": Cut("squad_dev", 2_000),
    "tldr 4 000": Cut("tldr", 4_000),
    "azure-cli 4 400": Cut("azure-cli", 4_400, documents=5_445),
    "tldr 20 000": Cut("tldr", 20_000, documents=6_729),
}
EPOCHS = {"tldr 20 000": 1}
"""Where all contenders train for fewer epochs, as four take hours on a CPU."""
GENERAL = [Cut(name, 0, None, 400, 0, 200) for name in ("tldr", "squad_dev", "azure-cli")]
GENERAL_PER_SET = 2
PEER = "sentence-transformers"
LORA, FULL = "recipes/bi-encoder-lora.yaml", "recipes/bi-encoder-full.yaml"
MINED = "recipes/bi-encoder-lora-mined.yaml"
AS_SHORT: dict[str, Any] = {"optimization.min_steps": None}
"""The four epochs alone, however few their steps are."""
CONTENDERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "base": ("none", "", {}),
    PEER: (PEER, "", {"epochs": 4}),
    "LoRA": ("nearfar", LORA, {}),
    "full": ("nearfar", FULL, {}),
    "LoRA 3e-4": ("nearfar", LORA, {"optimization.learning_rate": 3e-4}),
    "full, 2 epochs": ("nearfar", FULL, {"optimization.epochs": 2} | AS_SHORT),
    "full, 4 epochs": ("nearfar", FULL, AS_SHORT),
    "full, 50 steps": ("nearfar", FULL, {"optimization.min_steps": 50}),
    "full, 100 steps": ("nearfar", FULL, {"optimization.min_steps": 100}),
    "full 5e-5": ("nearfar", FULL, {"optimization.learning_rate": 5e-5} | AS_SHORT),
    "full 1e-4": ("nearfar", FULL, {"optimization.learning_rate": 1e-4} | AS_SHORT),
    "LoRA, 2 epochs": ("nearfar", LORA, {"optimization.epochs": 2}),
    "LoRA, 8 epochs": ("nearfar", LORA, {"optimization.epochs": 8}),
    "LoRA, batch 32": ("nearfar", LORA, {"optimization.batch_size": 32}),
    "full, batch 32": ("nearfar", FULL, {"optimization.batch_size": 32} | AS_SHORT),
    "LoRA, batch 128": ("nearfar", LORA, {"optimization.batch_size": 128}),
    "LoRA, rank 8": ("nearfar", LORA, {"model.tuning.rank": 8}),
    "LoRA, temperature 0.02": ("nearfar", LORA, {"objective.temperature": 0.02}),
    "LoRA, both directions": ("nearfar", LORA, {"objective.symmetric": True}),
    "full, 50 steps, both directions": (
        "nearfar",
        FULL,
        {"optimization.min_steps": 50, "objective.symmetric": True},
    ),
    "full, 50 steps, dropout": (
        "nearfar",
        FULL,
        {"optimization.min_steps": 50, "model.dropout": None},
    ),
    "LoRA, dropout": ("nearfar", LORA, {"model.dropout": None}),
    "LoRA, mined": ("nearfar", MINED, {}),
    "LoRA, mined in the pairs": ("nearfar", MINED, {"data.train": "pairs alone"}),
    "LoRA, guide": ("nearfar", LORA, {"objective.guide": MINILM}),
    "LoRA, replay": ("nearfar", LORA, {"data.train": "with replay"}),
}
"""The library, the recipe, and changes to it."""
FIRST = [PEER, "LoRA", "full"]
RIVALS = ["base", PEER, "LoRA"]
"""With which each contender is compared: LoRA with the same seeds and the share chosen on dev."""
BY_DEV = ", share by dev"


def result_file(name: str, contender: str, seed: int, place: Path) -> Path:
    """Where the measurements of one contender are kept."""
    return place / "results" / f"{name}--{contender}--{seed}.json".replace(" ", "-")


def result_of(name: str, contender: str, seed: int, place: Path) -> dict[str, Any]:
    """The measurements of one contender, from its file or from a process that makes them."""
    result = result_file(name, contender, seed, place)
    if not result.exists():
        cut = SETS[name]
        data = write_cut(DATA_SETS[cut.source], cut, place / "sets" / name.replace(" ", "-"))
        general = [other for other in GENERAL if other.source != cut.source][:GENERAL_PER_SET]
        measured = {"own": str(data / "measured")} | {
            other.source: str(
                write_cut(DATA_SETS[other.source], other, place / "general" / other.source)
                / "measured"
            )
            for other in general
        }
        library, recipe, settings = CONTENDERS[contender]
        if name in EPOCHS:
            key = "epochs" if library == PEER else "optimization.epochs"
            settings = settings | {key: EPOCHS[name]}
        if settings.get("data.train") == "with replay":
            settings = settings | replayed(cut, data, place)
        if settings.get("data.train") == "pairs alone":
            settings = settings | in_a_file_of_pairs(data)
        job = {
            "library": library,
            "recipe": str(REPOSITORY / recipe),
            "settings": settings,
            "data": str(data),
            "measured": measured,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "folder": str(place / "work"),
            "result": str(result),
        }
        result.parent.mkdir(parents=True, exist_ok=True)
        (place / "job.json").write_text(json.dumps(job))
        start = time.monotonic()
        command = [sys.executable, "-m", "measuring.contenders", str(place / "job.json")]
        with (place / "log.txt").open("a") as log:
            subprocess.run(
                command, check=True, stdout=log, stderr=log, cwd=REPOSITORY / "benchmarks"
            )
        print(f"{name}, {contender}, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    return json.loads(result.read_text())


def replayed(cut: Cut, data: Path, place: Path) -> dict[str, Any]:
    """The settings for training on the pairs of a set and a third as many of another subject, which
    is none of the general collections.
    """
    other = Cut("aws_cli" if cut.source == "pycode" else "pycode", cut.pairs // 3)
    folder = place / "replay" / f"{other.source}-{other.pairs}"
    replay = write_cut(DATA_SETS[other.source], other, folder)
    sources = [{"source": str(each)} for each in (data, replay)]
    return {"data.train": sources, "data.validation": str(data), "data.test": str(data)}


def in_a_file_of_pairs(data: Path) -> dict[str, Any]:
    """The settings for training on the pairs of a set, without its other documents."""
    file = data / "pairs.jsonl"
    pairs = [{"query": query, "positive": answer} for query, answer in training_pairs(data)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return {"data.train": str(file), "data.validation": str(data), "data.test": str(data)}


def chosen_on_dev(result: dict[str, Any], base: dict[str, Any]) -> str:
    """The share of the change that `fit` with `validation.interpolate` would keep."""
    from trainer.build.saving import choose_share

    values = {name: np.array(values) for name, values in result["dev"].items()}
    before = float(np.mean(base["dev"]["0"]))
    share, score = choose_share(
        lambda share: values[f"{share:g}"], before, float(values["1"].mean())
    )
    return f"{share:g}" if score > before else "0"


def values_of(
    results: list[dict[str, Any]], base: dict[str, Any], shares: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The values per query, means over seeds, on the set and on the general collections."""

    def pick(result: dict[str, Any], share: str) -> dict[str, Any]:
        return base if share == "0" else result

    test = [
        pick(result, share)["test"][share] for result, share in zip(results, shares, strict=True)
    ]
    general = [
        np.concatenate([values[share] for values in pick(result, share)["general"].values()])
        for result, share in zip(results, shares, strict=True)
    ]
    return np.mean(test, axis=0), np.mean(general, axis=0)


def records_of(name: str, results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What was measured on one set: per contender, and per contender with the share that is chosen
    on dev.
    """
    base, peer, lora = results["base"][0], results.get(PEER, []), results.get("LoRA", [])
    before = values_of([base], base, ["0"])
    bm25 = {"mean": rounded(base["test"]["BM25"])}
    means = [{"mean": rounded(values)} for values in before]
    records: list[dict[str, Any]] = [
        {"set": name, "model": "BM25", "test": bm25, "general": {}},
        {"set": name, "model": "base", "test": means[0], "general": means[1]},
    ]
    for contender, trained in results.items():
        if contender == "base" or not trained:
            continue
        rivals = {"base": before}
        if peer and contender != PEER:
            rivals[PEER] = values_of(peer, base, ["1"] * len(peer))
        choices = {contender: ["1"] * len(trained)}
        if CONTENDERS[contender][0] == "nearfar":
            choices[f"{contender}{BY_DEV}"] = [chosen_on_dev(one, base) for one in trained]
        for model, shares in choices.items():
            if model.endswith(BY_DEV) and contender != "LoRA" and len(lora) >= len(trained):
                same_seeds = lora[: len(trained)]
                lora_shares = [chosen_on_dev(one, base) for one in same_seeds]
                rivals["LoRA"] = values_of(same_seeds, base, lora_shares)
            record = {"set": name, "model": model, "seeds": len(trained), "shares": shares}
            after = values_of(trained, base, shares)
            for place, key in enumerate(("test", "general")):
                record[key] = {"mean": rounded(after[place])} | {
                    f"minus {rival}": difference(values[place], after[place])
                    for rival, values in rivals.items()
                }
            records.append(record)
    return records


def rounded(values: Any) -> float:
    """The mean."""
    return round(float(np.mean(values)), 5)


def difference(before: np.ndarray, after: np.ndarray) -> list[float]:
    """The mean difference and the bounds of its 95 % interval."""
    from trainer.evaluation.significance import paired_test

    interval = paired_test(before, after)
    return [round(value, 5) for value in (interval.difference, interval.low, interval.high)]


def row_of(record: dict[str, Any]) -> list[str]:
    """A record as a row of the table."""
    row = [record["set"] if record["model"] == "BM25" else "", record["model"]]
    row.append(str(record.get("seeds", "")))
    for values in (record["test"], record["general"]):
        row.append(f"{values['mean']:.3f}" if values else "")
        for rival in RIVALS:
            change = values.get(f"minus {rival}")
            row.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*change) if change else "")
    return [*row, " ".join(record.get("shares", []))]


def main(arguments: argparse.Namespace) -> None:
    records: list[dict[str, Any]] = []
    for name in arguments.sets:
        if present(SETS[name].source) is None:
            continue
        results = {}
        for contender in ["base", *arguments.contenders]:
            seeds = [0] if contender == "base" else arguments.seeds
            if arguments.finished:
                seeds = [
                    seed
                    for seed in seeds
                    if result_file(name, contender, seed, arguments.output).exists()
                ]
            results[contender] = [
                result_of(name, contender, seed, arguments.output) for seed in seeds
            ]
        if results["base"]:
            records += records_of(name, results)
    differences = [f"minus {rival} (95 %)" for rival in RIVALS]
    header = ["", "", "seeds", "nDCG@10", *differences, "general", *differences, "share kept"]
    text = table("all-MiniLM-L6-v2 before and after", header, [row_of(each) for each in records])
    save("quality", text, {"records": records})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--contenders", nargs="+", default=FIRST, choices=list(CONTENDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--finished", action="store_true", help="show what is measured, and measure nothing"
    )
    parser.add_argument("--output", type=Path, default=REPOSITORY / "runs" / "quality")
    main(parser.parse_args())
