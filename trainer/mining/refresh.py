"""Hard negatives mined anew while training, between two steps, by the model as it then is (ANCE,
Xiong et al. 2021).

task/                 the texts: written anew by every process that starts or continues the run
step-000000200/       what was mined before step 200, there whole or not at all
    negatives.npy     of each query that the steps up to the next boundary draw, its identity and
    those of its negatives, -1 for none
    report.json       counts, suspected false negatives, the sha256 of negatives.npy
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
from trainer.mining.choose import Options
from trainer.mining.mine import of_all_shards
from trainer.mining.shard import Miner
from trainer.mining.spaces import QUERIES_A_SHARD, Space
from trainer.mining.task import Task
from trainer.models.encoder import VectorEncoder
from trainer.progress import phase
from trainer.runtime.console import say
from trainer.storage.atomic import atomic_folder
from trainer.strategies.between_steps import run_between_steps

NEGATIVES, REPORT = "negatives.npy", "report.json"


class Refresh(lightning.Callback):
    """Mines at every boundary and gives the rows their negatives. `own_negatives` of the data stand
    before the mined ones.

    A checkpoint keeps its state: which boundary's negatives the run was at, and their sha256. A run
    that is continued between two boundaries goes on with those very negatives or not at all; at a
    boundary the weights are at hand, and negatives are mined anew, whatever is there.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        boundaries: Boundaries,
        options: Options,
        own_negatives: int,
        micro_batch_tokens: int | None = None,
    ) -> None:
        self.folder, self.boundaries = Path(folder), boundaries
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
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Remembers whose model it is."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """`{"step": 200, "sha256": ...}`, nothing before the first boundary."""
        return dict(self._state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state out of a checkpoint, on every rank."""
        self._state = dict(state_dict)

    def mine_before(self, steps: Steps, step: int) -> RowTransform:
        """What rows get from `step` up to the next boundary. Raises BadFolder where the negatives
        that a continued run was at are not there.
        """
        boundary = self.boundaries.latest(step)
        if boundary is None:
            return lambda row: add_mined_negatives(
                row, self._own_negatives, (), self._options.negatives
            )
        if boundary == step:
            assert isinstance(steps.rows, Rows)
            drawn = [
                steps.samples(number)
                for number in range(step, min(step + self.boundaries.every_steps, steps.last))
            ]
            try:
                mined = self._mined(
                    step,
                    np.unique(
                        self._queries.of(steps.rows.identities("query")[np.concatenate(drawn)])
                    ),
                )
            except OSError as error:
                raise BadFolder(
                    f"negatives cannot be mined in {self.folder}: {error.strerror}; make room"
                    " there, or choose another output"
                ) from error
        else:
            mined = on_every_rank(lambda: self._kept(boundary, step))
        return lambda row: self._given(row, mined, boundary)

    def place(self, boundary: int) -> Path:
        """Where the negatives of a boundary are."""
        return self.folder / f"step-{boundary:09}"

    def _given(self, row: Row, mined: MinedNegatives, boundary: int) -> Row:
        try:
            numbers = self._documents.of(mined.of(identity(row.query)))
        except KeyError as error:
            raise BadFolder(
                f"{self.place(boundary)} knows nothing of the query or a negative of {row.source};"
                " the data, or the number of steps, have changed since they were mined. Continue"
                f" from a checkpoint at step {boundary} or before, or start anew"
            ) from error
        return add_mined_negatives(
            row, self._own_negatives, self._task.documents.at(numbers), self._options.negatives
        )

    def _kept(self, boundary: int, step: int) -> MinedNegatives:
        path = self.place(boundary) / NEGATIVES
        advice = (
            f"so step {step} cannot be what it was; continue from a checkpoint at step {boundary}"
            " or before, or start anew"
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
            raise BadFolder(
                f"{path} is not what the run was at when the checkpoint was written, {advice}"
            )
        return MinedNegatives(np.load(io.BytesIO(content), allow_pickle=False))

    def _mined(self, step: int, queries: Int64[np.ndarray, " query"]) -> MinedNegatives:
        started = time.monotonic()
        task, options = (
            self._task.of_queries(queries),
            replace(self._options, seed=self._options.seed + step),
        )
        with phase("mining negatives"):
            shards = run_between_steps(self._trainer, lambda: self._searched(task, options))
        table = np.full((len(queries), 1 + options.negatives), -1, np.int64)
        table[:, 0] = np.sort(task.query_identities)
        for _, of_queries, _ in shards:
            for query, negatives in of_queries.items():
                table[np.searchsorted(table[:, 0], int(query)), 1 : 1 + len(negatives)] = negatives
        file = io.BytesIO()
        np.save(file, table, allow_pickle=False)
        self._state = {"step": step, "sha256": hashlib.sha256(file.getvalue()).hexdigest()}
        counts = of_all_shards([of_shard for _, _, of_shard in shards])
        on_first_rank(
            lambda: self._write(
                file.getvalue(), {**self._state, "options": asdict(options), **counts}
            )
        )
        self._say(table, counts, step, time.monotonic() - started)
        return MinedNegatives(table)

    def _searched(self, task: Task, options: Options) -> list[list[Any]]:
        """All shards, on every rank: all ranks encode, each searches its own shards."""
        work, encoder = self.folder / "work", self._trainer.lightning_module.encoder
        assert isinstance(encoder, VectorEncoder)
        on_first_rank(
            lambda: shutil.rmtree(work, ignore_errors=True)
        )  # of a process that was killed, with the vectors of other weights
        try:
            space = Space(encoder, task, work, self._micro_batch_tokens, "fp32")
            space.encode_all()
            miner = Miner(task, space, options)
            own = own_turns(-(-len(task.queries) // QUERIES_A_SHARD))
            return sorted(
                map(
                    json.loads,
                    gather_texts(on_every_rank(lambda: [_shard(miner, number) for number in own])),
                )
            )
        finally:
            if rank() == 0:
                shutil.rmtree(work, ignore_errors=True)

    def _write(self, negatives: bytes, report: dict[str, Any]) -> None:
        with atomic_folder(self.place(report["step"])) as partial:
            (partial / NEGATIVES).write_bytes(negatives)
            (partial / REPORT).write_text(
                json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8"
            )

    def _say(
        self,
        table: Int64[np.ndarray, "query candidate"],
        counts: dict[str, Any],
        step: int,
        seconds: float,
    ) -> None:
        there = (table[:, 1:] >= 0).sum(1)
        record = {
            "queries": len(table),
            "negatives": int(there.sum()),
            "queries_with_fewer": int((there < table.shape[1] - 1).sum()),
            "queries_without": int((there == 0).sum()),
            "suspected_false_negatives": counts["suspected"]["candidates"],
            "seconds": round(seconds, 3),
        }
        for logger in self._trainer.loggers:
            logger.log_metrics(
                {f"refresh/{name}": value for name, value in record.items()}, step=step
            )
        few = (
            f", {record['queries_with_fewer']:,} queries have fewer than {table.shape[1] - 1}"
            if record["queries_with_fewer"]
            else ""
        )
        say(
            f"negatives mined after {step} steps: {record['negatives']:,} for {len(table):,}"
            f" queries{few}"
        )


def _shard(miner: Miner, number: int) -> str:
    """What came of a shard, as it travels between ranks: its number, the negatives of each query,
    both by identity, and its counts.
    """
    mined = miner.mine(number)
    return json.dumps(
        [
            number,
            {identity(line["query"]): [*map(identity, line["negatives"])] for line in mined.lines},
            mined.counts,
        ]
    )


class _Numbers:
    """From the identities of texts to their numbers in a task."""

    def __init__(self, identities: Int64[np.ndarray, " text"]) -> None:
        self._order = np.argsort(identities, kind="stable")
        self._ascending = identities[self._order]

    def of(self, identities: Int64[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
        """Raises KeyError for a text that the task has not."""
        places = np.searchsorted(self._ascending, identities).clip(max=len(self._ascending) - 1)
        if (self._ascending[places] != identities).any():
            raise KeyError(int(identities[self._ascending[places] != identities][0]))
        return self._order[places]
