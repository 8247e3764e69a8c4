"""`nearfar mine` as a person calls it: the whole way from a file to training on what came out;
stopped and gone on with; what it refuses.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from mining_toys import generate_pairs, lines_of
from verbs import command_caller

from trainer.cli.fit import fit
from trainer.cli.mine import mine
from trainer.errors import BadData, BadFolder, BadModel, BadRecipe
from trainer.mining import mine as job
from trainer.mining import shard, spaces, teacher
from trainer.mining.shard import Miner
from trainer.mining.work import job_lock
from trainer.models.cross_encoder import (
    CrossEncoderSettings,
    build_cross_encoder,
    read_cross_encoder,
)
from trainer.models.formats.folder import save_encoder
from trainer.retrieval.rerank import score_pairs
from trainer.vectors.dense import DenseVectors

call = command_caller(mine, fit, must_succeed=True)


@pytest.fixture(scope="module")
def model(toy_folder):
    return toy_folder("bert")


@pytest.fixture
def pairs(tmp_path):
    rows, _ = generate_pairs(seed=1, pairs=60)
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(
            json.dumps({"query": row.query, "positive": row.positive, "negatives": row.negatives})
            + "\n"
            for row in rows
        )
    )
    return path


def as_beir(folder, rows, further):
    (folder / "qrels").mkdir(parents=True)
    texts = list(dict.fromkeys([*(row.positive for row in rows), *further]))
    queries = list(dict.fromkeys(row.query for row in rows))
    (folder / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"d{at}", "title": "", "text": text}) + "\n"
            for at, text in enumerate(texts)
        )
    )
    (folder / "queries.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"q{at}", "text": text}) + "\n" for at, text in enumerate(queries)
        )
    )
    lines = [f"q{queries.index(row.query)}\td{texts.index(row.positive)}\t1" for row in rows]
    (folder / "qrels" / "train.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
    )
    return folder


EASY = ("--percent-of-positive", "99.9", "--negatives", "3")


def test_pairs_are_mined_into_a_file_that_training_reads(model, pairs, tmp_path):
    said = call(
        "mine", model, pairs, "-o", tmp_path / "mined", *EASY, "--random-negatives", "1", "--report"
    ).output
    lines = lines_of(tmp_path / "mined" / "train.jsonl")
    assert f"{len(lines):,} pairs with" in said
    assert sorted(path.name for path in (tmp_path / "mined").iterdir()) == [
        ".lock",
        "report.html",
        "report.json",
        "train.jsonl",
        "without-negatives.jsonl",
    ]
    for objective in (
        "{kind: distillation, temperature: 0.05}",
        "{kind: contrastive, temperature: 0.05}",
    ):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(
            f"name: {objective[7:12]}\nkind: bi_encoder\nmodel: {{backbone: {model}, tuning:"
            f" {{kind: full}}}}\nobjective: {objective}\ndata: {{train:"
            f" {tmp_path / 'mined' / 'train.jsonl'}, negatives_per_query: 2, validation_ratio:"
            " 0.2}\noptimization: {batch_size: 4, max_steps: 2, learning_rate: 1.0e-4}\noutput:"
            f" {tmp_path / 'runs'}\n"
        )
        call("fit", recipe)
        assert (tmp_path / "runs" / objective[7:12] / "model" / "modules.json").exists()


def test_beir_folder_is_mined_from_its_whole_corpus(model, tmp_path):
    rows, further = generate_pairs(seed=2, pairs=40)
    data = as_beir(tmp_path / "beir", rows, further)
    call("mine", model, data, "-o", tmp_path / "mined", *EASY)
    written = {
        text for line in lines_of(tmp_path / "mined" / "train.jsonl") for text in line["negatives"]
    }
    positives = {row.positive for row in rows}
    assert written & (set(further) - positives)
    assert written <= positives | set(further)


def test_further_corpus_is_searched(model, pairs, tmp_path):
    (tmp_path / "more.txt").write_text(
        "".join(f"machine account number {'x' * at}\n" for at in range(1, 40))
    )
    call(
        "mine",
        model,
        pairs,
        "-o",
        tmp_path / "mined",
        "--corpus",
        tmp_path / "more.txt",
        "--negatives",
        50,
        "--depth",
        500,
        "--percent-of-positive",
        0,
    )
    assert any(
        "number x" in text
        for line in lines_of(tmp_path / "mined" / "train.jsonl")
        for text in line["negatives"]
    )


def test_page_is_escaped_and_shows_what_was_removed(model, tmp_path):
    rows = [
        {"query": f"<script>alert({at})</script> {row.query}", "positive": f"{row.positive} <b>"}
        for at, row in enumerate(generate_pairs(3)[0])
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call(
        "mine",
        model,
        tmp_path / "pairs.jsonl",
        "-o",
        tmp_path / "mined",
        "--percent-of-positive",
        0,
        "--report",
    )
    page = (tmp_path / "mined" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert "default-src 'none'" in page
    assert "Suspected false negatives" in page
    assert "known positives" in page


# ---------------------------------------------------------------- gone on with

INSTANTS = {
    "while encoding": (DenseVectors, "save", 6),
    "between shards": (Miner, "mine_shard", 3),
    "before the counts of a shard": (job, "write_text", 6),
    "while merging": (job, "_concatenate", 2),
}


@pytest.fixture
def small_parts(monkeypatch):
    for module in (spaces, job, shard, teacher):
        monkeypatch.setattr(module, "QUERIES_PER_SHARD", 9)
    monkeypatch.setattr(DenseVectors, "TEXTS_PER_BLOCK", 20)


def killed_at(owner, name, which, arguments):
    """Runs the command in a process that is killed at the call of that number; its exit code."""
    function, calls = getattr(owner, name), []

    def counting(*some, **named):
        calls.append(name)
        if len(calls) == which:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*some, **named)

    def work():
        setattr(owner, name, counting)
        call(*arguments)

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("instant", INSTANTS)
def test_killed_job_continues_and_writes_the_same_bytes(
    model, pairs, tmp_path, monkeypatch, small_parts, instant
):
    arguments = ("mine", model, pairs, "-o", tmp_path / "mined", *EASY)
    assert killed_at(*INSTANTS[instant], arguments) == -signal.SIGKILL
    assert not (tmp_path / "mined" / "report.json").exists()
    work = tmp_path / "mined" / "work"
    vectors, finished = (
        len(list(work.glob("model/*.npy"))),
        len(list(work.glob("shard-*[0-9].json"))),
    )
    assert vectors == 5 if instant == "while encoding" else finished >= 1
    saved, mined = [], []
    save, mine_shard = DenseVectors.save, Miner.mine_shard
    monkeypatch.setattr(
        DenseVectors,
        "save",
        lambda self, folder, name: saved.append(name) or save(self, folder, name),
    )
    monkeypatch.setattr(
        Miner, "mine_shard", lambda self, number: mined.append(number) or mine_shard(self, number)
    )
    call(*arguments)
    went_on = len(saved), len(mined)
    call("mine", model, pairs, "-o", tmp_path / "whole", *EASY)
    assert went_on == (
        len(saved) - went_on[0] - vectors,
        len(mined) - went_on[1] - finished,
    )  # what was there is not done again
    for name in ("train.jsonl", "without-negatives.jsonl", "report.json"):
        assert (tmp_path / "mined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_finished_job_is_not_repeated(model, pairs, tmp_path):
    call("mine", model, pairs, "-o", tmp_path / "mined", *EASY)
    before = (tmp_path / "mined" / "train.jsonl").stat().st_mtime_ns
    copied = tmp_path / "elsewhere.jsonl"
    copied.write_bytes(pairs.read_bytes())
    call("mine", model, copied, "-o", tmp_path / "mined", *EASY)  # the same data, wherever it lies
    assert (tmp_path / "mined" / "train.jsonl").stat().st_mtime_ns == before


def test_other_job_in_the_folder_is_refused_with_the_difference(model, toy_folder, pairs, tmp_path):
    call("mine", model, pairs, "-o", tmp_path / "mined", *EASY)
    with pytest.raises(
        BadFolder, match=r"another job, finished: options.depth was 100, is 30. Use"
    ):
        call("mine", model, pairs, "-o", tmp_path / "mined", *EASY, "--depth", 30)
    with pytest.raises(
        BadFolder, match=r"model was .*bert \(sha256 \w{8}\), is .*mpnet \(sha256 \w{8}\)"
    ):
        call("mine", toy_folder("mpnet"), pairs, "-o", tmp_path / "mined", *EASY)
    with pytest.raises(BadFolder, match=r"teacher was nothing, is .*mpnet"):
        call(
            "mine", model, pairs, "-o", tmp_path / "mined", *EASY, "--teacher", toy_folder("mpnet")
        )
    pairs.write_text(pairs.read_text() + '{"query": "one more", "positive": "answer"}\n')
    with pytest.raises(BadFolder, match=r"data was .*pairs.jsonl"):
        call("mine", model, pairs, "-o", tmp_path / "mined", *EASY)
    call("mine", model, pairs, "-o", tmp_path / "mined", *EASY, "--replace")
    assert any("one more" in path.read_text() for path in (tmp_path / "mined").glob("*.jsonl"))


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--negatives", 0), "no negatives are requested"),
        (
            ("--negatives", 10, "--depth", 12, "--skip-top", 5),
            r"10 negatives cannot come from ranks 6 to 12",
        ),
        (("--min-score", 0.9, "--max-score", 0.1), "no score is both above"),
        (("--percent-of-positive", 120), "not between 0"),
        (("--relative-margin", 3), "between 0 and 1"),
        (("--margin", "nan"), "not a finite number"),
        (("--column", "query"), "ROLE=NAME"),
    ],
)
def test_contradicting_options_are_refused(model, pairs, tmp_path, options, message):
    with pytest.raises(BadRecipe, match=message):
        call("mine", model, pairs, "-o", tmp_path / "mined", *options)
    assert not (tmp_path / "mined").exists()


def test_teacher_that_is_the_model_is_refused(model, pairs, tmp_path):
    with pytest.raises(BadRecipe, match="leave --teacher out"):
        call("mine", model, pairs, "-o", tmp_path / "mined", "--teacher", model)


def test_missing_model_is_refused(pairs, tmp_path):
    with pytest.raises(BadModel, match="no model folder"):
        call("mine", "/no/such/model", pairs, "-o", tmp_path / "mined")


def test_foreign_files_are_kept(model, pairs, tmp_path):
    (tmp_path / "mined").mkdir()
    (tmp_path / "mined" / "thesis.txt").write_text("mine")
    with pytest.raises(BadFolder, match=r"thesis.txt"):
        call("mine", model, pairs, "-o", tmp_path / "mined", "--replace")
    assert (tmp_path / "mined" / "thesis.txt").read_text() == "mine"


def test_input_is_not_overwritten(model, pairs, tmp_path):
    """Nor removed by --replace before it is read, as where negatives are mined once more from those
    mined before.
    """
    data = tmp_path / "mined" / "train.jsonl"
    data.parent.mkdir()
    data.write_bytes(pairs.read_bytes())
    for given in ([data], [data, "--replace"], [data.parent], [pairs, "--corpus", data]):
        with pytest.raises(BadFolder, match=r"lies in .*mined, where the job would write over it"):
            call("mine", model, *given, "-o", data.parent, *EASY)
    with pytest.raises(BadFolder, match=r"train.jsonl exists, but .nearfar mine. may not"):
        call("mine", model, pairs, "-o", data.parent, *EASY)
    assert data.read_bytes() == pairs.read_bytes()
    call("mine", model, pairs, "-o", data.parent, *EASY, "--replace")
    assert lines_of(data)[0]["scores"]


def test_folder_in_use_is_refused(model, pairs, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", ("import fcntl,os,sys,time; "
                                "l=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT); "
                                "fcntl.flock(l,fcntl.LOCK_EX); print(1,flush=True); "
                                "time.sleep(60)"),
         str(tmp_path / "lock")], stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline()
        (tmp_path / "mined").mkdir()
        (tmp_path / "mined" / ".lock").hardlink_to(tmp_path / "lock")
        with pytest.raises(BadFolder, match="another process is mining"):
            call("mine", model, pairs, "-o", tmp_path / "mined")
    finally:
        holder.kill()
        holder.wait()
    with job_lock(tmp_path / "mined"):
        pass


def test_corpus_of_one_document_is_refused(model, tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "positive": "the only one"}\n')
    with pytest.raises(BadData, match="single document"):
        call("mine", model, tmp_path / "pairs.jsonl", "-o", tmp_path / "mined")


def test_mining_without_any_negative_ends_with_2_and_names_a_query(model, pairs, tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "trainer",
            "mine",
            str(model),
            str(pairs),
            "-o",
            str(tmp_path / "mined"),
            "--min-score",
            "5",
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert "no negative is left for any of the" in ended.stderr
    assert "Traceback" not in ended.stderr
    reasons = lines_of(tmp_path / "mined" / "without-negatives.jsonl")
    assert len(reasons) > 20
    assert all("by min_score" in line["reason"] for line in reasons)


# ---------------------------------------------------------------- several processes


@pytest.mark.slow
def test_two_processes_of_torchrun_write_the_bytes_of_one(model, pairs, tmp_path):
    arguments = ["trainer", "mine", str(model), str(pairs), *EASY, "--bm25-negatives", "1", "-o"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
    ]
    environ = {**os.environ, "ACCELERATE_USE_CPU": "True"}
    for command in (
        [sys.executable, "-m", *arguments, str(tmp_path / "one")],
        [*launcher, *arguments, str(tmp_path / "two")],
    ):
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("pairs with") == 1  # the first rank alone speaks
    for name in ("train.jsonl", "without-negatives.jsonl", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_cross_encoder_is_the_teacher_on_two_processes(model, pairs, tmp_path):
    torch.manual_seed(2)
    save_encoder(
        build_cross_encoder(CrossEncoderSettings(backbone=str(model), lora=None)),
        tmp_path / "cross",
    )
    arguments = [
        "trainer",
        "mine",
        str(model),
        str(pairs),
        "--percent-of-positive",
        "0",
        "--negatives",
        "3",
        "--teacher",
        str(tmp_path / "cross"),
        "-o",
    ]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
    ]
    for command in (
        [sys.executable, "-m", *arguments, str(tmp_path / "one")],
        [*launcher, *arguments, str(tmp_path / "two")],
    ):
        ended = subprocess.run(
            command,
            env={**os.environ, "ACCELERATE_USE_CPU": "True"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "one" / "train.jsonl").read_bytes() == (
        tmp_path / "two" / "train.jsonl"
    ).read_bytes()
    lines = lines_of(tmp_path / "one" / "train.jsonl")
    encoder = read_cross_encoder(str(tmp_path / "cross"))
    for line in lines[:5]:
        wanted = score_pairs(
            encoder, [(line["query"], text) for text in (line["positive"], *line["negatives"])]
        )
        np.testing.assert_allclose(line["scores"], wanted, atol=2e-5)
