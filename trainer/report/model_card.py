"""Adds the results of a run to the README of its model: metrics, data, base model and licence."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.evaluation.results import Evaluation
from trainer.evaluation.verdict import sentence, verdict
from trainer.models.files.licence import HEAD
from trainer.recipe.changed_keys import changed_keys
from trainer.report.read import Run
from trainer.report.text import metric_name, printable, short
from trainer.storage.atomic import write_text

METRICS = ("ndcg@10", "mrr@10", "recall@100")
UNKNOWN = "unknown"
"""The licence of a base model that names none; model hubs know the word."""
_PRIVATE = ("name", "output", "machine", "checkpoints", "trackers")
"""Keys of a recipe that say nothing about the model, only about who trained it and where."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def complete_model_card(run: Run, licence: str | None) -> Path | None:
    """Adds metadata and results to `model/README.md` of a run that was read, and returns its path.

    `licence` is that of the base model, or None if it is not known. None without a README.
    """
    path = run.folder / "model" / "README.md"
    if not path.is_file():
        return None
    card = path.read_text(encoding="utf-8")
    head = HEAD.match(card)
    if head is None:
        return None
    values = yaml.safe_load(head[1]) | _metadata(run, licence)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    sections = "\n".join(_sections(run, licence))
    write_text(path, f"---\n{text}---\n{card[head.end() :]}\n{sections}")
    return path


def _metadata(run: Run, licence: str | None) -> dict[str, Any]:
    """Returns what model hubs read: licence, base model and results."""
    values: dict[str, Any] = {"license": _line(licence or UNKNOWN)}
    backbone = _backbone(run)
    if _HUB_NAME.fullmatch(backbone) and not Path(backbone).exists():
        values["base_model"] = backbone
    evaluation = run.evaluation
    if evaluation is not None:
        values["model-index"] = [{"name": _line(run.name), "results": [_result(evaluation)]}]
    return values


def _result(evaluation: Evaluation) -> dict[str, Any]:
    model = evaluation.systems[-1]
    return {
        "task": {"type": "information-retrieval", "name": "Information Retrieval"},
        "dataset": {
            "type": UNKNOWN,
            "name": _line(evaluation.set_name),
            "split": _line(evaluation.split),
        },
        "metrics": [
            {
                "type": metric.replace("@", "_at_"),
                "value": round(model.mean(metric), 4),
                "name": metric_name(metric),
            }
            for metric in METRICS
            if metric in model.metrics
        ],
    }


def _line(text: str) -> str:
    """Returns text on one line, which cannot end the metadata."""
    return str(printable(short(text, 100)))


def _sections(run: Run, licence: str | None) -> Iterator[str]:
    yield "## Results\n"
    yield from _results(run)
    yield "\n## Data\n"
    yield from _data(run)
    yield "\n## Base model and licence\n"
    yield f"Training started from {plain(_backbone(run))}."
    yield f"Its licence: {plain(licence or UNKNOWN)}."
    if licence is None:
        yield "Look it up before you share this model."
    yield "The licence of the training data is not known to nearfar.\n"
    if run.recipe is not None:
        yield "## Training\n\nSettings of the recipe that are not the default:\n"
        settings = changed_keys(run.recipe).items()
        yield json_block({key: value for key, value in settings if not key.startswith(_PRIVATE)})


def _results(run: Run) -> Iterator[str]:
    outcome = verdict(run.evaluation, run.selection)
    if outcome is not None:
        yield f"{plain(outcome.headline)}\n"
        yield from (f"- {plain(line)}" for line in outcome.general)
        yield ""
    evaluation = run.evaluation
    if evaluation is None:
        return
    metrics = [metric for metric in METRICS if metric in evaluation.systems[-1].metrics]
    yield f"| | {' | '.join(map(metric_name, metrics))} |"
    yield f"|---|{'---|' * len(metrics)}"
    for system in evaluation.systems:
        intervals = [
            system.interval(metric) if metric in system.metrics else None for metric in metrics
        ]
        cells = [
            f"{values.mean:.3f} [{values.low:.3f}, {values.high:.3f}]" if values else "–"
            for values in intervals
        ]
        yield f"| {plain(system.name)} | {' | '.join(cells)} |"
    queries = len(evaluation.systems[-1].query_ids)
    yield (
        f"\nMeans over {queries:,} {plain(evaluation.split)} queries of"
        f" {plain(evaluation.set_name)}, searched among {evaluation.documents:,} documents, with"
        f" 95 % bootstrap intervals. {plain(sentence(evaluation.limitation))}".rstrip()
    )


def _data(run: Run) -> Iterator[str]:
    if run.data is not None:
        training = run.data.training
        yield (
            f"{training['pairs']:,} training pairs of {training['queries']:,} queries and"
            f" {training['documents']:,} documents."
        )
        for leak in run.data.leaks:
            yield f"{leak.count:,} in {plain(leak.split)}: {plain(leak.kind)} in training."
    fingerprint = run.environment.get("data")
    if isinstance(fingerprint, Mapping):
        yield f"Sources, with the SHA-256 of their content:\n\n{json_block(fingerprint)}"


def _backbone(run: Run) -> str:
    if run.recipe is None:
        return UNKNOWN
    return " and ".join(_public(name) for name in run.recipe.model.base_models.values())


def _public(value: Any) -> Any:
    """Returns values whose paths to folders of this machine are names of files alone."""
    match value:
        case str() if value.startswith(("/", "~", "..")):
            return Path(value).name
        case dict():
            return {key: _public(inner) for key, inner in value.items()}
        case list():
            return [_public(inner) for inner in value]
    return value


def plain(text: str) -> str:
    r"""Returns text of unknown origin as Markdown that shows it as it is.

    >>> plain("<b> a_b `c`")
    '\\<b\\> a\\_b \\`c\\`'
    """
    return re.sub(r"([\\`*_\[\]<>#|~&$!])", r"\\\1", str(printable(short(text, 600))))


def json_block(values: Any) -> str:
    """Returns values as JSON in a code block that no string of them can end, without paths to
    folders of this machine.
    """
    text = json.dumps(_public(values), indent=2).replace("`", "\\u0060").replace("<", "\\u003c")
    return f"```json\n{text}\n```"
