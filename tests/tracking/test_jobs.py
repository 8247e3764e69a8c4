"""Mining, evaluation and the stages of pipelines in trackers."""

import json
import shlex

import pytest
from mining_toys import generate_pairs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verbs import command_caller

from trainer.cli.evaluate import evaluate
from trainer.cli.mine import mine
from trainer.errors import BadRecipe
from trainer.pipeline.file import load_pipeline
from trainer.pipeline.run import plan, script_lines

call = command_caller(evaluate, mine, must_succeed=True)


@pytest.fixture
def pairs(tmp_path):
    rows, _ = generate_pairs(seed=1, pairs=40)
    lines = (json.dumps({"query": row.query, "positive": row.positive}) for row in rows)
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return tmp_path / "pairs.jsonl"


def events(folder):
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_mining_shows_counts_and_a_sample_of_negatives(tmp_path, toy_folder, pairs):
    out = tmp_path / "out"
    call("mine", toy_folder("bert"), pairs, "-o", out, "--tracker", "tensorboard")
    report, shown = json.loads((out / "report.json").read_text()), events(out)
    (queries,) = shown.Scalars("mining/queries")
    assert queries.value == report["queries"] > 30
    (table,) = shown.Tensors("tables/mined_negatives/text_summary")
    rows = table.tensor_proto.string_val[0].decode().splitlines()
    pair = json.loads((out / "train.jsonl").read_text().splitlines()[0])
    assert rows[0] == "| query | positive | negative | positive's score | score |"
    assert all(pair[name] in rows[2] for name in ("query", "positive"))
    assert pair["negatives"][0] in rows[2]


def test_evaluation_shows_metrics_and_changed_queries(tmp_path, toy_folder, pairs):
    words = (toy_folder("bert"), "--data", pairs, "--out", tmp_path / "e.json")
    call("evaluate", *words, "--tracker", "{kind: tensorboard}")
    shown = events(tmp_path / "e.trackers")
    (score,) = shown.Scalars("test/BM25/ndcg@10")
    systems = {
        system["name"]: system["summary"]
        for system in json.loads((tmp_path / "e.json").read_text())["systems"]
    }
    assert score.value == pytest.approx(systems["BM25"]["ndcg@10"]["mean"], abs=1e-6)
    assert any("p_value_to" in name for name in shown.Tags()["scalars"])
    assert "tables/lost_queries/text_summary" in shown.Tags()["tensors"]


def test_files_of_trackers_are_in_the_cache_and_not_in_the_current_folder(
    tmp_path, pairs, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path / "cache"))
    told = call("evaluate", "bm25", "--data", pairs, "--tracker", "tensorboard").stderr
    assert not [*here.iterdir()]
    assert events(tmp_path / "cache/trackers").Scalars("test/BM25/ndcg@10")
    assert f"--logdir {tmp_path / 'cache/trackers/tensorboard'}" in told


def test_unknown_tracker_is_refused_before_the_job_starts(tmp_path, toy_folder, pairs):
    with pytest.raises(BadRecipe, match="give wandb, tensorboard, mlflow or trackio"):
        call("mine", toy_folder("bert"), pairs, "-o", tmp_path / "out", "--tracker", "wandbb")
    assert not (tmp_path / "out").exists()


PIPELINE = """
name: search
output: {folder}
trackers: {trackers}
stages:
  mining:
    command: nearfar mine some/model {folder}/pairs.jsonl -o ${{folder}}
  training:
    command: nearfar fit quickstart data.train={folder}/pairs.jsonl output=${{folder}} name=run
    after: [mining]
  own:
    command: nearfar fit quickstart data.train={folder}/pairs.jsonl output=${{folder}} trackers=[]
  index:
    command: nearfar index some/model {folder}/pairs.jsonl --out ${{folder}}
"""


def test_trackers_of_a_pipeline_go_to_its_stages_and_change_no_key(tmp_path, pairs):
    pipelines = []
    for trackers in ("[]", "[{kind: wandb, tags: [a]}, {kind: tensorboard}]"):
        path = tmp_path / "pipeline.yaml"
        path.write_text(PIPELINE.format(folder=tmp_path, trackers=trackers))
        pipelines.append(load_pipeline(path))
    without, with_trackers = map(plan, pipelines)
    assert [step.stage.key for step in without] == [step.stage.key for step in with_trackers]
    lines = script_lines(pipelines[1], with_trackers, ["nearfar", "pipeline"])
    commands = {tuple(words[1:2]): words for line in lines if (words := shlex.split(line))}
    (wandb, tensorboard) = map(
        json.loads, [word for word in commands["mine",] if word.startswith("{")]
    )
    assert (wandb["group"], wandb["tags"], tensorboard["kind"]) == ("search", ["a"], "tensorboard")
    assert "--tracker" not in commands["index",]
    trainings = [line for line in lines if " fit " in line]
    assert sum('"group": "search"' in line for line in trainings) == 1
