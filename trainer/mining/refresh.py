"""Hard negatives mined again during training, by the current model (ANCE, Xiong et al. 2021).

task/                 the texts; every process that starts or continues the run writes them again
step-000000200/       negatives mined before step 200; the folder is complete or missing
    negatives.npy     identity of each query drawn before the next boundary, and of its negatives
                      (-1 for none)
    report.json       counts, suspected false negatives, a sample, the sha256 of negatives.npy
work/                 vectors, while they are needed
"""

import hashlib
import io
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
from jaxtyping import Int64

from trainer.batch import identity
from trainer.collectives import gather_texts, on_every_rank, on_first_rank, own_turns, rank
from trainer.data.mined_negatives import Boundaries, MinedNegatives, add_mined_negatives
from trainer.data.module import RowTransform, Steps
from trainer.data.rows import Row, Rows
from trainer.errors import BadFolder
from trainer.mining.choose import MiningRules
from trainer.mining.mine import add_counts
from trainer.mining.shard import Miner
from trainer.mining.spaces import QUERIES_PER_SHARD, Space
from trainer.mining.task import Task
from trainer.models.encoder import VectorEncoder
from trainer.progress import phase
from trainer.runtime.console import say
from trainer.storage.atomic import atomic_folder, write_bytes, write_text
from trainer.strategies.between_steps import run_between_steps
from trainer.strategies.devices import Precision

NEGATIVES, REPORT = "negatives.npy", "report.json"
_SAMPLE_QUERIES = 50
"""The number of queries whose negatives are in the report."""


class Refresh(lightning.Callback):
    """Mines at every boundary, and adds the negatives to the rows after `own_negatives` of the
    data.

    A checkpoint contains the state: the last boundary and the sha256 of its negatives. A run that
    continues between two boundaries needs exactly those negatives. At a boundary, the model mines
    again, whatever is there.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        boundaries: Boundaries,
        options: MiningRules,
        own_negatives: int,
        micro_batch_tokens: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.folder, self.boundaries, self.precision = Path(folder), boundaries, precision
        self._task, self._options, self._own_negatives, self._micro_batch_tokens = (
            task,
            options,
            own_negatives,
            micro_batch_tokens,
        )
        self._queries, self._documents = (
            _Numbers(task.query_identities),
            _Numbers(task.document_identities),
        )
        self._state: dict[str, Any] = {}

    def setup(
        self, lightning_trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Stores the trainer, whose model mines."""
        self._trainer = lightning_trainer

    def state_dict(self) -> dict[str, Any]:
        """Returns `{"step": 200, "sha256": ...}`; before the first boundary, it is empty."""
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the state from a checkpoint, on every rank."""
        self._state = dict(state_dict)

    def mine_before(self, steps: Steps, step: int) -> RowTransform:
        """Returns the function that adds negatives to rows from `step` to the next boundary.

        Raises BadFolder when a continued run needs negatives that are missing or changed.
        """
        boundary = self.boundaries.latest(step)
        if boundary is None:
            return self.without_mining
        if boundary == step:
            assert isinstance(steps.rows, Rows)
            samples = [
                steps.samples(number)
                for number in range(step, min(step + self.boundaries.every_steps, steps.last))
            ]
            try:
                mined_negatives = self._mine_negatives(
                    step,
                    np.unique(
                        self._queries.of(steps.rows.identities("query")[np.concatenate(samples)])
                    ),
                )
            except OSError as error:
                raise BadFolder(
                    f"negatives cannot be mined in {self.folder}: {error.strerror}; make room"
                    " there, or choose another output"
                ) from error
        else:
            mined_negatives = on_every_rank(lambda: self._stored_negatives(boundary, step))
        return lambda row: self._add_negatives(row, mined_negatives, boundary)

    def without_mining(self, row: Row) -> Row:
        """Returns the row as it is before the first boundary."""
        return add_mined_negatives(row, self._own_negatives, (), self._options.negatives)

    def place(self, boundary: int) -> Path:
        """Returns the folder of the negatives of a boundary."""
        return self.folder / f"step-{boundary:09}"

    def _add_negatives(self, row: Row, mined_negatives: MinedNegatives, boundary: int) -> Row:
        try:
            numbers = self._documents.of(mined_negatives.of(identity(row.query)))
        except KeyError as error:
            raise BadFolder(
                f"{self.place(boundary)} lacks the query or a negative of {row.source}; the data or"
                " the number of steps have changed since they were mined. Continue from a"
                f" checkpoint at step {boundary} or before, or start again"
            ) from error
        return add_mined_negatives(
            row, self._own_negatives, self._task.documents.at(numbers), self._options.negatives
        )

    def _stored_negatives(self, boundary: int, step: int) -> MinedNegatives:
        path = self.place(boundary) / NEGATIVES
        advice = (
            f"so step {step} cannot be repeated; continue from a checkpoint at step {boundary} or"
            " before, or start again"
        )
        if self._state.get("step") != boundary:
            raise BadFolder(
                f"the checkpoint at step {step} does not say which negatives were mined at step"
                f" {boundary}, {advice}"
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadFolder(f"{path} cannot be read ({error.strerror}), {advice}") from error
        if hashlib.sha256(content).hexdigest() != self._state["sha256"]:
            raise BadFolder(f"{path} has changed since the checkpoint was written, {advice}")
        return MinedNegatives(np.load(io.BytesIO(content), allow_pickle=False))

    def _mine_negatives(self, step: int, queries: Int64[np.ndarray, " query"]) -> MinedNegatives:
        start_time = time.monotonic()
        task, options = (
            self._task.select_queries(queries),
            replace(self._options, seed=self._options.seed + step),
        )
        with phase("mining negatives"):
            shards = run_between_steps(self._trainer, lambda: self._mine_shards(task, options))
        table = np.full((len(queries), 1 + options.negatives), -1, np.int64)
        table[:, 0] = np.sort(task.query_identities)
        for _, negatives_by_identity, _ in shards:
            for query, negatives in negatives_by_identity.items():
                table[np.searchsorted(table[:, 0], int(query)), 1 : 1 + len(negatives)] = negatives
        file = io.BytesIO()
        np.save(file, table, allow_pickle=False)
        self._state = {"step": step, "sha256": hashlib.sha256(file.getvalue()).hexdigest()}
        counts = add_counts([shard_counts for _, _, shard_counts in shards])
        report = {**self._state, "options": asdict(options), **counts}
        on_first_rank(
            lambda: self._write(file.getvalue(), {**report, "sample": self._sample(table)})
        )
        self._say(table, counts, step, time.monotonic() - start_time)
        return MinedNegatives(table)

    def _mine_shards(self, task: Task, options: MiningRules) -> list[list[Any]]:
        """Returns the results of all shards. All ranks encode; each searches its own shards."""
        work, encoder = self.folder / "work", self._trainer.lightning_module.encoder
        assert isinstance(encoder, VectorEncoder)
        # A killed process may have left vectors of other weights.
        on_first_rank(lambda: shutil.rmtree(work, ignore_errors=True))
        try:
            space = Space(encoder, task, work, self._micro_batch_tokens, self.precision)
            space.encode_all()
            miner = Miner(task, space, options)
            shard_numbers = own_turns(-(-len(task.queries) // QUERIES_PER_SHARD))
            return sorted(
                map(
                    json.loads,
                    gather_texts(
                        on_every_rank(lambda: [_shard(miner, number) for number in shard_numbers])
                    ),
                )
            )
        finally:
            if rank() == 0:
                shutil.rmtree(work, ignore_errors=True)

    def _write(self, negatives: bytes, report: dict[str, Any]) -> None:
        with atomic_folder(self.place(report["step"])) as partial:
            write_bytes(partial / NEGATIVES, negatives)
            write_text(partial / REPORT, json.dumps(report, indent=1, ensure_ascii=False))

    def _sample(self, table: Int64[np.ndarray, "query candidate"]) -> list[dict[str, Any]]:
        """Returns the texts of some queries, chosen by a hash, and of their negatives."""
        rows = table[table[:, 1] >= 0][:_SAMPLE_QUERIES]
        queries = self._task.queries.at(self._queries.of(rows[:, 0]))
        negatives = (self._documents.of(row[row >= 0]) for row in rows[:, 1:])
        return [
            {"query": query, "negatives": list(self._task.documents.at(numbers))}
            for query, numbers in zip(queries, negatives, strict=True)
        ]

    def _say(
        self,
        table: Int64[np.ndarray, "query candidate"],
        counts: dict[str, Any],
        step: int,
        seconds: float,
    ) -> None:
        negative_counts = (table[:, 1:] >= 0).sum(1)
        record = {
            "queries": len(table),
            "negatives": int(negative_counts.sum()),
            "queries_with_fewer": int((negative_counts < table.shape[1] - 1).sum()),
            "queries_without": int((negative_counts == 0).sum()),
            "suspected_false_negatives": counts["suspected"]["candidates"],
            "seconds": round(seconds, 3),
        }
        for logger in self._trainer.loggers:
            logger.log_metrics(
                {f"refresh/{name}": value for name, value in record.items()}, step=step
            )
        shortage = (
            f", {record['queries_with_fewer']:,} queries have fewer than {table.shape[1] - 1}"
            if record["queries_with_fewer"]
            else ""
        )
        say(
            f"negatives mined after {step} steps: {record['negatives']:,} for {len(table):,}"
            f" queries{shortage}"
        )


def _shard(miner: Miner, number: int) -> str:
    """Returns the result of a shard as JSON: its number, the negatives per query, and its counts.

    Queries and negatives are identities.
    """
    result = miner.mine_shard(number)
    return json.dumps(
        [
            number,
            {identity(line["query"]): [*map(identity, line["negatives"])] for line in result.lines},
            result.counts,
        ]
    )


class _Numbers:
    """Finds the numbers of texts in a task by their identities."""

    def __init__(self, identities: Int64[np.ndarray, " text"]) -> None:
        self._order = np.argsort(identities, kind="stable")
        self._ascending = identities[self._order]

    def of(self, identities: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
        """Returns the numbers. Raises KeyError for a text that is not in the task."""
        places = np.searchsorted(self._ascending, identities).clip(max=len(self._ascending) - 1)
        if (self._ascending[places] != identities).any():
            raise KeyError(int(identities[self._ascending[places] != identities][0]))
        return self._order[places]
