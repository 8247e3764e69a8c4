"""A mining job from its data to its report: shared out over ranks, continued where it was stopped,
the same whatever carries it.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.collectives import gather_texts, on_every_rank, on_first_rank, own_turns, rank
from trainer.errors import BadData
from trainer.mining.choose import Options
from trainer.mining.shard import WORST, Miner
from trainer.mining.spaces import QUERIES_A_SHARD, Space
from trainer.mining.task import Task
from trainer.mining.teacher import PairScorer
from trainer.mining.work import NEGATIVES, WITHOUT, MiningManifest, WorkFolder
from trainer.progress import phase
from trainer.storage.atomic import atomic_file, write_text

FORMAT = 1
_as_json = json.JSONEncoder(ensure_ascii=False).encode


def mine_shards(
    folder: WorkFolder,
    manifest: MiningManifest,
    task: Task,
    space: Space,
    options: Options,
    teacher: Space | PairScorer | None = None,
) -> dict[str, Any]:
    """Mines what is not yet mined and writes it; what `report.json` then holds. On several ranks to
    be called on all, on one shared file system.

    Raises BadData when no query is left with a negative: nothing is written then but the report of
    why.
    """
    miner = Miner(
        task, space, options, teacher.pair_scores if isinstance(teacher, Space) else teacher
    )
    shards = -(-len(task.queries) // QUERIES_A_SHARD)
    missing = _decided_by_first(
        lambda: [shard for shard in range(shards) if not folder.shard(shard, ".json").exists()]
    )
    if missing:
        for each in (space, teacher):
            if isinstance(each, Space):
                each.encode_all()
    on_every_rank(lambda: _mine_own(miner, folder, missing))
    report = on_first_rank(lambda: _merge(folder, manifest, shards))
    return report or json.loads(folder.report_path.read_text(encoding="utf-8"))


def _decided_by_first(numbers: Callable[[], list[int]]) -> list[int]:
    """What the first rank finds: the others may look later, or at a file system that is behind."""
    return [
        int(number)
        for number in gather_texts([str(number) for number in numbers()] if rank() == 0 else [])
    ]


def _mine_own(miner: Miner, folder: WorkFolder, missing: list[int]) -> None:
    shards = [missing[turn] for turn in own_turns(len(missing))]
    with phase("searching and filtering", len(shards), "shards") as progress:
        for shard in shards:
            mined = miner.mine(shard)
            _write_lines(folder.shard(shard, ".jsonl"), mined.lines)
            _write_lines(folder.shard(shard, ".without.jsonl"), mined.without)
            write_text(folder.shard(shard, ".json"), json.dumps(mined.counts))
            progress.advance()


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    write_text(path, "".join(f"{_as_json(line)}\n" for line in lines))


def _merge(folder: WorkFolder, manifest: MiningManifest, shards: int) -> dict[str, Any]:
    """Shards in order become the output; then the work is removed."""
    if folder.is_done:
        return json.loads(folder.report_path.read_text(encoding="utf-8"))
    counts = of_all_shards(
        [
            json.loads(folder.shard(shard, ".json").read_text(encoding="utf-8"))
            for shard in range(shards)
        ]
    )
    _concatenated(
        [folder.shard(shard, ".without.jsonl") for shard in range(shards)], folder.path / WITHOUT
    )
    if not counts["pairs_written"]:
        reasons = "".join(
            f"\n  {line['query'][:80]!r}: {line['reason']}"
            for line in _first_lines(folder.path / WITHOUT, 3)
        )
        raise BadData(
            f"no negative is left for any of the {counts['queries']} queries, so there is nothing"
            f" to write. First ones:{reasons}\n{folder.path / WITHOUT} names all. Allow more: a"
            " higher --percent-of-positive or --depth, a lower --min-score, or a larger --corpus"
        )
    _concatenated(
        [folder.shard(shard, ".jsonl") for shard in range(shards)], folder.path / NEGATIVES
    )
    report = {"format": FORMAT, "made_with": manifest, **counts}
    write_text(folder.report_path, json.dumps(report, indent=1, ensure_ascii=False))
    shutil.rmtree(folder.work)
    return report


def of_all_shards(counts: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of shards, in their order, as those of the whole."""
    whole: dict[str, Any] = {}
    for of_shard in counts:
        whole = _added(whole, of_shard)
    whole["worst"] = sorted(
        whole["worst"], key=lambda pair: pair["positive_score"] - pair["candidate_score"]
    )[:WORST]
    return whole


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Numbers added, lists joined, of dictionaries of dictionaries.

    >>> _added({"a": 1, "b": {"c": [1]}}, {"a": 2, "b": {"c": [2], "d": 3}})
    {'a': 3, 'b': {'c': [1, 2], 'd': 3}}
    """
    both = dict(one)
    for key, value in other.items():
        both[key] = (
            _added(both.get(key, {}), value)
            if isinstance(value, dict)
            else both[key] + value
            if key in both
            else value
        )
    return both


def _concatenated(parts: list[Path], path: Path) -> None:
    with atomic_file(path) as partial, partial.open("wb") as file:
        for part in parts:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, file)


def _first_lines(path: Path, count: int) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for _, line in zip(range(count), file, strict=False):
            yield json.loads(line)
