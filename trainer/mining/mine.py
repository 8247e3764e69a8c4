"""A mining job from its texts to its report.

Ranks share the shards, and a stopped job continues. The result does not depend on the number of
ranks.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.collectives import (
    integers_of_first_rank,
    on_every_rank,
    on_first_rank,
    own_turns,
)
from trainer.errors import BadData
from trainer.mining.choose import MiningRules
from trainer.mining.shard import Miner
from trainer.mining.shard_output import WORST
from trainer.mining.spaces import QUERIES_PER_SHARD, Space
from trainer.mining.task import Task
from trainer.mining.teacher import PairScorer
from trainer.mining.work import NEGATIVES, WITHOUT_NEGATIVES, MiningManifest, WorkFolder
from trainer.progress import phase
from trainer.storage.atomic import atomic_file, write_text
from trainer.storage.manifest import digest_files

FORMAT = 1
_as_json = json.JSONEncoder(ensure_ascii=False).encode


def mine_shards(
    folder: WorkFolder,
    manifest: MiningManifest,
    task: Task,
    space: Space,
    options: MiningRules,
    teacher: Space | PairScorer | None = None,
) -> dict[str, Any]:
    """Mines the missing shards, writes the result, and returns the content of `report.json`.

    All ranks must call it, and share one file system. Raises BadData when no query has a negative
    left; then only the reasons are written.
    """
    miner = Miner(
        task, space, options, teacher.pair_scores if isinstance(teacher, Space) else teacher
    )
    shards = -(-len(task.queries) // QUERIES_PER_SHARD)
    missing = integers_of_first_rank(
        lambda: [shard for shard in range(shards) if not folder.shard(shard, ".json").exists()]
    )
    if missing:
        for scorer in (space, teacher):
            if isinstance(scorer, Space):
                scorer.encode_all()
    on_every_rank(lambda: _mine_own(miner, folder, missing))
    report = on_first_rank(lambda: _merge(folder, manifest, shards))
    return report or json.loads(folder.report_path.read_text(encoding="utf-8"))


def _mine_own(miner: Miner, folder: WorkFolder, missing: list[int]) -> None:
    shards = [missing[turn] for turn in own_turns(len(missing))]
    with phase("searching and filtering", len(shards), "shards") as progress:
        for shard in shards:
            result = miner.mine_shard(shard)
            _write_lines(folder.shard(shard, ".jsonl"), result.lines)
            _write_lines(folder.shard(shard, ".without.jsonl"), result.queries_without)
            write_text(folder.shard(shard, ".json"), json.dumps(result.counts))
            progress.advance()


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_text(path, "".join(f"{_as_json(line)}\n" for line in lines))


def _merge(folder: WorkFolder, manifest: MiningManifest, shards: int) -> dict[str, Any]:
    """Joins the shards in order into the output, and removes the work folder."""
    if folder.is_done:
        return json.loads(folder.report_path.read_text(encoding="utf-8"))
    counts = add_counts(
        [
            json.loads(folder.shard(shard, ".json").read_text(encoding="utf-8"))
            for shard in range(shards)
        ]
    )
    _concatenate(
        [folder.shard(shard, ".without.jsonl") for shard in range(shards)],
        folder.path / WITHOUT_NEGATIVES,
    )
    if not counts["pairs_written"]:
        reasons = "".join(
            f"\n  {line['query'][:80]!r}: {line['reason']}"
            for line in _first_lines(folder.path / WITHOUT_NEGATIVES, 3)
        )
        raise BadData(
            f"no negative is left for any of the {counts['queries']} queries, so there is nothing"
            f" to write. First ones:{reasons}\n{folder.path / WITHOUT_NEGATIVES} lists all. Allow"
            " more: a higher --percent-of-positive or --depth, a lower --min-score, or a larger"
            " --corpus"
        )
    _concatenate(
        [folder.shard(shard, ".jsonl") for shard in range(shards)], folder.path / NEGATIVES
    )
    files = digest_files(folder.path, [NEGATIVES])
    report = {"format": FORMAT, "made_with": manifest, "files": files, **counts}
    write_text(folder.report_path, json.dumps(report, indent=1, ensure_ascii=False))
    shutil.rmtree(folder.work)
    return report


def add_counts(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the counts of a job from the counts of its shards, in their order."""
    totals: dict[str, Any] = {}
    for shard_counts in counts:
        totals = _sum_nested(totals, shard_counts)
    totals["worst"] = sorted(
        totals["worst"], key=lambda pair: pair["positive_score"] - pair["candidate_score"]
    )[:WORST]
    return totals


def _sum_nested(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Adds the numbers and joins the lists of two nested dictionaries.

    >>> _sum_nested({"a": 1, "b": {"c": [1]}}, {"a": 2, "b": {"c": [2], "d": 3}})
    {'a': 3, 'b': {'c': [1, 2], 'd': 3}}
    """
    result = dict(first)
    for key, value in second.items():
        result[key] = (
            _sum_nested(result.get(key, {}), value)
            if isinstance(value, dict)
            else result[key] + value
            if key in result
            else value
        )
    return result


def _concatenate(parts: list[Path], path: Path) -> None:
    with atomic_file(path) as partial, partial.open("wb") as file:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, file)


def _first_lines(path: Path, count: int) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for _, line in zip(range(count), file, strict=False):
            yield json.loads(line)
