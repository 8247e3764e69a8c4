"""A mining job: from the names of models and data to a folder of negatives."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from trainer.collectives import on_first_rank, rank
from trainer.data.fingerprint import fingerprint_of
from trainer.data.readers.read import Split, read_rows
from trainer.errors import BadRecipe
from trainer.mining.choose import MiningRules
from trainer.mining.mine import mine_shards
from trainer.mining.spaces import Space
from trainer.mining.task import corpus_texts, is_written, read_task, write_task
from trainer.mining.teacher import PairScorer, by_pair_encoder, pair_scorer
from trainer.mining.work import NEGATIVES, WITHOUT_NEGATIVES, MiningManifest, WorkFolder, job_lock
from trainer.models.encoder import PairEncoder, VectorEncoder
from trainer.models.families import read_any, read_model
from trainer.models.files.locate import locate
from trainer.progress import phase
from trainer.strategies import devices
from trainer.strategies.machine.environment import plan_from_environment
from trainer.strategies.machine.plan import check_requirements
from trainer.strategies.machine.same_input import check_same
from trainer.strategies.process_group import process_group


@dataclass(frozen=True)
class PairSource:
    """The training pairs that get negatives, and the source of the negatives."""

    data: str
    """A data file, a folder in BEIR layout, a saved data set, or the name of a hub data set."""
    split: Split = "train"
    columns: Mapping[str, str] | None = None
    """Role to column name, for columns that are not recognised."""
    corpus: str | None = None
    """More documents to search: JSON Lines, a .txt file, or a BEIR folder."""
    max_bad_rows_ratio: float = 0.001


@dataclass(frozen=True, repr=False)
class MiningResult:
    """The outcome of a mining job; it prints as a summary of a few lines."""

    folder: Path
    report: dict[str, Any]
    """The content of report.json."""

    @property
    def negatives(self) -> Path:
        """The file of training pairs with their negatives."""
        return self.folder / NEGATIVES

    def __repr__(self) -> str:
        report = self.report
        with_negatives = report["queries"] - report["queries_without_negatives"]
        negatives_per_query = sum(report["negatives"].values()) / max(1, with_negatives)
        filters = [f"{count:,} by {name}" for name, count in report["removed"].items() if count]
        doubtful = report["suspected"]
        lines = [
            f"{self.negatives}: {report['pairs_written']:,} pairs with {negatives_per_query:.1f}"
            " negatives per query",
            f"removed {', '.join(filters) or 'none'} of"
            f" {sum(report['candidates'].values()):,} candidates in range",
            f"suspected false negatives: {doubtful['candidates']:,} candidates of"
            f" {doubtful['queries']:,} queries score above the positive, {doubtful['written']:,}"
            " were written",
        ]
        if report["queries_without_negatives"]:
            lines.append(
                f"{report['queries_without_negatives']:,} queries have no negatives left and are"
                f" not written; {self.folder / WITHOUT_NEGATIVES} lists them with the reason"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Job:
    """Everything that the result of a job depends on."""

    model: str
    teacher: str | None
    source: PairSource
    options: MiningRules
    precision: devices.Precision

    def manifest(self) -> MiningManifest:
        """Returns the content of manifest.json, which identifies files by their content."""
        source = self.source
        return {
            "model": fingerprint_of(str(locate(self.model))),
            "teacher": fingerprint_of(str(locate(self.teacher))) if self.teacher else None,
            "data": fingerprint_of(source.data)
            | {"split": source.split, "columns": dict(source.columns or {})},
            "corpus": fingerprint_of(source.corpus) if source.corpus else None,
            "options": asdict(self.options),
            "precision": self.precision,
        }


def mine_negatives(
    model: str,
    source: PairSource,
    out: Path,
    options: MiningRules | None = None,
    *,
    teacher: str | None = None,
    precision: devices.Precision | Literal["auto"] = "fp32",
    replace: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> MiningResult:
    """Finds hard negatives for training pairs and writes them to the folder `out`.

    A job that was stopped continues. `model` searches; `teacher`, a model of any family, scores the
    candidates. Under a launcher, all ranks call this function: all encode, and each searches its
    shards. The first rank alone reads the data, writes, and calls `tell`. Raises BadFolder when
    `out` holds another job and `replace` is false, and BadData when no query has a negative left.
    """
    _check_models(model, teacher)
    plan = plan_from_environment(os.environ)
    check_requirements(plan)
    accelerator = devices.find_accelerator(plan.accelerator or "auto")
    precision = devices.choose_precision(plan.precision or precision, accelerator)
    job = _Job(model, teacher, source, options or MiningRules(), precision)
    folder = WorkFolder(out)
    with process_group(plan, accelerator), ExitStack() as stack:
        check_same(str(job), "command")
        on_first_rank(lambda: stack.enter_context(job_lock(folder.path)))
        if rank() != 0:
            tell = _silent
        manifest = on_first_rank(lambda: _begin(folder, job, replace, tell)) or {}
        if folder.is_done:
            tell(f"{folder.path} already holds the finished job")
        else:
            _carry_out(folder, job, manifest, devices.own_device(accelerator), tell)
        report = json.loads(folder.report_path.read_text(encoding="utf-8"))
        on_first_rank(lambda: None)  # keep the lock until all ranks have read the report
    return MiningResult(folder.path, report)


def _silent(line: str) -> None:
    """Does nothing."""


def _check_models(model: str, teacher: str | None) -> None:
    searching = locate(model)
    if teacher is not None and locate(teacher) == searching:
        raise BadRecipe(
            f"the teacher {teacher} is also the model that searches, so its scores would be the"
            " same; leave --teacher out, or give another model"
        )


def _begin(
    folder: WorkFolder, job: _Job, replace: bool, tell: Callable[[str], None]
) -> MiningManifest:
    """Prepares the folder and the texts of the job, and returns the manifest."""
    source = job.source
    for name in (source.data, source.corpus):
        folder.check_apart(name)
    manifest = job.manifest()
    folder.begin(manifest, replace)
    if not folder.is_done and not is_written(folder.work):
        ratio = source.max_bad_rows_ratio
        rows = read_rows(source.data, source.columns, source.split, ratio)
        write_task(folder.work, rows, corpus_texts([source.data], rows, source.corpus, ratio))
    return manifest


def _carry_out(
    folder: WorkFolder,
    job: _Job,
    manifest: MiningManifest,
    device: torch.device,
    tell: Callable[[str], None],
) -> None:
    task = read_task(folder.work)
    tell(f"{len(task.queries):,} queries, {len(task.documents):,} documents")

    def space(encoder: VectorEncoder, name: str) -> Space:
        place = folder.work / name
        return Space(encoder, task, place, precision=job.precision)

    teacher: Space | PairScorer | None = None
    if job.teacher is not None:
        with phase("loading the teacher"):
            scorer = read_any(job.teacher).to(device)
        match scorer:
            case VectorEncoder():
                teacher = space(scorer, "teacher")
            case PairEncoder():
                teacher = pair_scorer(by_pair_encoder(scorer, job.precision), task)
    with phase("loading the model"):
        encoder = read_model(job.model).to(device)
    mine_shards(folder, manifest, task, space(encoder, "model"), job.options, teacher)
