"""Negatives mined anew while training: those of the model at that step, the same on any ranks, and
exactly the same when a run is continued.
"""

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from encoded import encode
from matrix import encoder_of
from mining_toys import mine_by_hand
from ranks import on_ranks
from refresh_toys import (
    BATCH,
    EVERY_STEPS,
    FURTHER_DOCUMENTS,
    OPTIONS,
    ROW_NEGATIVES,
    ROWS,
    STEPS,
    read_hashes,
    train,
)

from trainer.batch import identity
from trainer.data.mined_negatives import Boundaries
from trainer.data.order import batch_samples
from trainer.errors import BadFolder
from trainer.mining.shard import Miner
from trainer.retrieval.encoding import encode as encoding
from trainer.tracking.results import mined_negatives

LIMITLESS = replace(OPTIONS, margin=None)


@pytest.fixture(scope="module")
def backbone(toy_folder):
    return toy_folder("bert")


@pytest.fixture(scope="module")
def uninterrupted(backbone, tmp_path_factory):
    """(folder, what `train` gives) of one process that is never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "refresh"
    return folder, train(folder, backbone)


def drawn(first, last):
    """Queries of the steps `first` up to `last`."""
    return {
        ROWS[int(row)].query
        for step in range(first, last)
        for row in batch_samples(3, step, len(ROWS), BATCH)
    }


def tables(folder):
    """Boundary to query to negatives, as texts."""
    texts = {
        identity(text): text for row in ROWS for text in (row.query, row.positive, *row.negatives)
    } | {identity(text): text for text in FURTHER_DOCUMENTS}
    found = {}
    for path in sorted(folder.glob("step-*/negatives.npy")):
        rows = np.load(path).tolist()
        found[int(path.parent.name[5:])] = {
            texts[row[0]]: [texts[name] for name in row[1:] if name >= 0] for row in rows
        }
    return found


# ---------------------------------------------------------------- what is mined


def test_negatives_are_those_of_the_model_at_that_step(uninterrupted, backbone):
    folder, (_, _, _, _, weights) = uninterrupted
    found = tables(folder)
    assert sorted(found) == [0, 3, 6]
    counts = []
    for boundary, of_boundary in found.items():
        encoder, vectors = encoder_of(backbone, "dot", "full", torch.float64), {}
        encoder.load_state_dict(
            {
                name.removeprefix("encoder."): value
                for name, value in weights[boundary].items()
                if name.startswith("encoder.")
            }
        )

        def score(query, document, encoder=encoder, vectors=vectors):
            for text, role in ((query, "query"), (document, "document")):
                if (text, role) not in vectors:
                    vectors[text, role] = encode(encoder, [text], role)[0]
            return float(np.float32(vectors[query, "query"] @ vectors[document, "document"]))

        assert set(of_boundary) == drawn(boundary, min(boundary + EVERY_STEPS, STEPS))
        wanted = mine_by_hand(list(ROWS), FURTHER_DOCUMENTS, score, OPTIONS)
        for query, negatives in of_boundary.items():
            # Twins of each other have equal scores but for rounding: compared is what is scored,
            # not which twin it was.
            np.testing.assert_allclose(
                [score(query, text) for text in negatives],
                [score(query, text) for text in wanted[query]],
                atol=2e-6,
            )
        counts += map(len, of_boundary.values())
    assert OPTIONS.negatives in counts
    assert min(counts) < OPTIONS.negatives, "the limits were met, so queries have fewer"


def test_negatives_change_with_the_model(uninterrupted):
    found = tables(uninterrupted[0])
    both = found[0].keys() & found[6].keys()
    assert both
    assert any(found[0][query] != found[6][query] for query in both)


def test_step_uses_the_negatives_of_its_boundary(
    uninterrupted,
):
    folder, (_, texts, _, _, _) = uninterrupted
    found = tables(folder)
    short = 0
    for step, documents in enumerate(texts):
        each = 1 + ROW_NEGATIVES + OPTIONS.negatives
        for row, start in zip(
            batch_samples(3, step, len(ROWS), BATCH), range(0, len(documents), each), strict=True
        ):
            row = ROWS[int(row)]
            negatives = found[step - step % EVERY_STEPS][row.query]
            filled = [row.positive] * (OPTIONS.negatives - len(negatives))
            assert documents[start : start + each] == [
                identity(text)
                for text in (row.positive, *row.negatives[:ROW_NEGATIVES], *negatives, *filled)
            ]
            short += bool(filled)
    assert short


def test_log_and_report_say_what_was_mined(uninterrupted):
    folder, _ = uninterrupted
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    refreshed = {record["step"]: record for record in records if "refresh/queries" in record}
    found = tables(folder)
    assert list(refreshed) == [0, 3, 6]
    for step, record in refreshed.items():
        assert record["refresh/queries"] == len(found[step])
        assert record["refresh/negatives"] == sum(map(len, found[step].values()))
        assert record["refresh/queries_with_fewer"] == sum(
            len(negatives) < OPTIONS.negatives for negatives in found[step].values()
        )
        assert record["refresh/queries_without"] == sum(
            not negatives for negatives in found[step].values()
        )
        report = json.loads((folder / f"step-{step:09}/report.json").read_text())
        assert report["suspected"]["candidates"] == record["refresh/suspected_false_negatives"] > 0
        assert record["refresh/seconds"] > 0
        sample = {line["query"]: line["negatives"] for line in report["sample"]}
        assert sample
        assert sample == {query: found[step][query] for query in sample}
        shown = mined_negatives(folder / f"step-{step:09}/report.json")
        assert len(shown["mined_negatives"].rows) == sum(map(len, sample.values()))
        assert len(shown["suspected_false_negatives"].rows) == len(report["worst"])
    assert not (folder / "work").exists()


# ---------------------------------------------------------------- ranks and micro-batches


@pytest.mark.parametrize(
    ("count", "how", "tolerance"),
    [
        (1, {"micro": 200}, 1e-9),
        (2, {"kind": "ddp"}, 1e-9),
        (2, {"kind": "ddp", "micro": 30}, 1e-9),
        (2, {"kind": "fsdp2"}, 1e-9),
    ],
    ids=["other micro-batches", "ddp", "ddp, other micro-batches", "fsdp2"],
)
def test_ranks_and_micro_batches_change_no_negatives(
    uninterrupted, backbone, tmp_path, count, how, tolerance
):
    folder, (losses, _, weights, _, _) = uninterrupted
    for of_rank in on_ranks(count, part(train, **how), tmp_path / "refresh", backbone):
        assert of_rank[0] == pytest.approx(losses, rel=tolerance)
        for name, value in weights.items():
            torch.testing.assert_close(of_rank[2][name], value, rtol=1e-6, atol=1e-8)
    assert negatives_of(tmp_path / "refresh") == negatives_of(folder)


def in_small_shards(*arguments):
    for module in ("spaces", "shard", "refresh"):
        sys.modules[f"trainer.mining.{module}"].QUERIES_PER_SHARD = 5
    return train(*arguments)


def test_shards_change_no_negatives(uninterrupted, backbone, tmp_path):
    folder, (losses, _, _, _, _) = uninterrupted
    for count in (1, 2):
        for of_rank in on_ranks(count, in_small_shards, tmp_path / str(count), backbone):
            assert of_rank[0] == pytest.approx(losses, rel=1e-9)
        assert negatives_of(tmp_path / str(count)) == negatives_of(folder)
    reports = [
        json.loads((each / "step-000000003/report.json").read_text())
        for each in (folder, tmp_path / "2")
    ]
    for part_of_it in ("queries", "removed", "negatives", "suspected"):
        assert reports[0][part_of_it] == reports[1][part_of_it]


@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_zero_changes_no_negatives(backbone, tmp_path, kind):
    how = {"dtype": torch.float32, "rate": 5e-4}
    alone = train(tmp_path / "alone", backbone, **how)[0]
    for of_rank in on_ranks(2, part(train, kind=kind, **how), tmp_path / "both", backbone):
        assert of_rank[0] == pytest.approx(alone, rel=1e-5)
    assert negatives_of(tmp_path / "both") == negatives_of(tmp_path / "alone")


def test_late_interaction_mines_the_same_on_ranks(backbone, tmp_path):
    alone = train(tmp_path / "alone", backbone, score="maxsim", options=LIMITLESS)
    for of_rank in on_ranks(
        2, part(train, score="maxsim", micro=80, options=LIMITLESS), tmp_path / "both", backbone
    ):
        assert of_rank[0] == pytest.approx(alone[0], rel=1e-9)
    assert negatives_of(tmp_path / "both") == negatives_of(tmp_path / "alone")
    assert sum(len(negatives) for negatives in tables(tmp_path / "alone")[3].values()) > 10


def part(function, **how):
    def called(*arguments):
        return function(*arguments, **how)

    return called


def negatives_of(folder):
    return {name: digest for name, digest in read_hashes(folder).items() if name.endswith(".npy")}


# ---------------------------------------------------------------- stopped and continued


@pytest.mark.parametrize("at", [2, 3, 5, 7])
def test_stopped_and_continued_run_equals_an_uninterrupted_one(
    uninterrupted, backbone, tmp_path, at
):
    """At a boundary, in the middle of an interval, and in the middle of the last."""
    whole, (losses, texts, weights, _, _) = uninterrupted
    before = train(tmp_path / "refresh", backbone, stop=at)
    after = train(tmp_path / "refresh", backbone, first=at, checkpoint=before[3])
    assert [*before[0], *after[0]] == losses
    assert [*before[1], *after[1]] == texts
    assert all(torch.equal(after[2][name], value) for name, value in weights.items())
    assert read_hashes(tmp_path / "refresh") == read_hashes(whole)


def test_run_killed_while_mining_and_continued_equals_an_uninterrupted_one(
    uninterrupted, backbone, tmp_path
):
    whole, (losses, _, weights, _, _) = uninterrupted
    folder = tmp_path / "refresh"
    checkpoint = train(folder, backbone, stop=5)[3]

    def killed():
        plain = Miner.mine_shard

        def mine(self, shard):
            plain(self, shard)
            os.kill(os.getpid(), signal.SIGKILL)

        Miner.mine_shard = mine
        train(folder, backbone, first=5, checkpoint=checkpoint)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (folder / "work").is_dir(), "it was killed in the middle"
    assert not (folder / "step-000000006").exists()
    for path in (folder / "work").glob("query-*.npy"):
        np.save(path, -np.load(path))  # as of other weights: nothing of it may be used
    after = train(folder, backbone, first=5, checkpoint=checkpoint)
    assert after[0] == losses[5:]
    assert all(torch.equal(after[2][name], value) for name, value in weights.items())
    assert read_hashes(folder) == read_hashes(whole)


def test_negatives_of_other_weights_are_not_used_at_a_boundary(uninterrupted, backbone, tmp_path):
    """A run that has gone back before a boundary mines anew, whatever stands there."""
    whole, (losses, _, _, _, _) = uninterrupted
    checkpoint = train(tmp_path / "refresh", backbone, stop=3)[3]
    train(tmp_path / "refresh", backbone, stop=7, rate=0.05)
    assert read_hashes(tmp_path / "refresh") != read_hashes(whole)
    assert train(tmp_path / "refresh", backbone, first=3, checkpoint=checkpoint)[0] == losses[3:]
    assert read_hashes(tmp_path / "refresh") == read_hashes(whole)


@pytest.mark.parametrize(
    "fault", ["missing", "altered", "truncated", "of another course", "no word of it", "other data"]
)
def test_negatives_of_another_checkpoint_are_refused(backbone, tmp_path, fault):
    folder = tmp_path / "refresh"
    checkpoint = train(folder, backbone, stop=5)[3]
    path = folder / "step-000000003/negatives.npy"
    match fault:
        case "missing":
            path.unlink()
            said = "cannot be read"
        case "altered":
            content = bytearray(path.read_bytes())
            content[-3] ^= 1
            path.write_bytes(content)
            said = "has changed since the checkpoint"
        case "truncated":
            path.write_bytes(path.read_bytes()[:-8])
            said = "has changed since the checkpoint"
        case "of another course":
            train(folder, backbone, stop=5, rate=0.05)
            said = "has changed since the checkpoint"
        case "no word of it":
            checkpoint["refresh"] = {}
            said = "does not say which negatives were mined at step 3"
        case "other data":
            path.write_bytes((folder / "step-000000000/negatives.npy").read_bytes())
            checkpoint["refresh"]["sha256"] = json.loads(
                (folder / "step-000000000/report.json").read_text()
            )["sha256"]
            said = "lacks the query"
    with pytest.raises(BadFolder, match=said) as raised:
        train(folder, backbone, first=5, checkpoint=checkpoint)
    assert raised.value.exit_code == 2
    assert "continue from a checkpoint at step 3 or before" in str(raised.value).lower()


def test_read_only_folder_is_refused_by_name(backbone, tmp_path):
    (tmp_path / "refresh").mkdir()
    (tmp_path / "refresh/work").write_text("in the way")
    with pytest.raises(BadFolder, match=r"cannot be mined in .*refresh: File exists"):
        train(tmp_path / "refresh", backbone)


def test_steps_before_the_first_boundary_use_the_negatives_of_the_data(backbone, tmp_path):
    _, texts, _, _, _ = train(
        tmp_path / "refresh", backbone, boundaries=Boundaries(2, 4), options=LIMITLESS
    )
    assert sorted(tables(tmp_path / "refresh")) == [2, 6]
    each = 1 + ROW_NEGATIVES + OPTIONS.negatives
    for step, documents in enumerate(texts):
        rows = [documents[start : start + each] for start in range(0, len(documents), each)]
        assert all(row[0] == row[2] for row in rows) == (step < 2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_vectors_are_computed_in_the_precision_that_was_asked_for(
    backbone, tmp_path, monkeypatch, precision
):
    precisions, autocast = [], encoding.autocast

    def recorded(device, name):
        precisions.append(name)
        return autocast(device, name)

    monkeypatch.setattr(encoding, "autocast", recorded)
    train(tmp_path / "refresh", backbone, precision=precision)
    assert set(precisions) == {precision}


def test_random_negatives_are_drawn_again_at_each_boundary(backbone, tmp_path):
    train(tmp_path / "refresh", backbone, rate=1e-12, options=replace(LIMITLESS, pick="random"))
    found = tables(tmp_path / "refresh")
    both = found[0].keys() & found[6].keys()
    assert any(found[0][query] != found[6][query] for query in both)
