"""One run of two attempts, with W&B and TensorBoard live, and what `nearfar sync` writes of it."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import wandb  # noqa: F401  # once here, and not in every fork
from forked import nearfar
from tracking_server import tracking_server

from trainer.errors import BadFolder
from trainer.recipe.schema.trackers import WandbTracker
from trainer.tracking.dashboard.panels import SECTIONS
from trainer.tracking.sync import read_values, sync_run

STEPS = 16


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def run(home, toy_folder):
    """A finished run: its first attempt was killed behind its checkpoint, so steps are repeated."""
    rows = [
        {"query": f"resize disk {n}", "positive": f"disk {n} has size {3 * n}"} for n in range(60)
    ]
    for name, part in (("train", rows[:40]), ("dev", rows[40:50]), ("test", rows[50:])):
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    words = [
        *("fit", "bi-encoder-full", f"model.backbone={toy_folder('bert')}", f"output={home}"),
        *(f"data.train={home}/train.jsonl", f"data.validation={home}/dev.jsonl"),
        *(f"data.test={home}/test.jsonl", "name=a", "optimization.batch_size=8"),
        *("optimization.learning_rate=3e-3", "validation.every_steps=4"),
        *("machine.accelerator=cpu", "machine.threads=1", "checkpoints.every_steps=4"),
        "trackers=[{kind: wandb, group: g, tags: [x, y], notes: n}, {kind: tensorboard}]",
    ]
    environment = {"HOME": str(home), "WANDB_MODE": "offline"}
    first = nearfar(*words, "optimization.max_steps=8", environment=environment)
    assert first.returncode == 0, first.stderr
    (home / "a" / "status.json").unlink()  # as after a kill between the last step and the end
    words += [f"optimization.max_steps={STEPS}", "--resume", "--accept-changes"]
    second = nearfar(*words, environment=environment)
    assert second.returncode == 0, second.stderr
    return home / "a"


def wandb_records(folder):
    """What W&B's own reader finds in the one offline run of a folder, by the type of record."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records = {}
    for record in map(json.loads, text.splitlines()):
        records.setdefault(record["type"], []).append(record[record["type"]])
    return records


def sync(run, home, *words):
    environment = {"HOME": str(home), "WANDB_MODE": "offline", "TRACKIO_DIR": str(home / "trackio")}
    result = nearfar("sync", run, *words, folder=home, environment=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def synced(run, home):
    """The records of two calls."""
    records = []
    for _ in range(2):
        assert f"values of {STEPS} steps, as run" in sync(run, home)
        records.append(wandb_records(run / "sync"))
    return records


def points(records):
    """The values of each step, without what differs with the clock and the temporary names."""
    return [
        {
            name: value
            for name, value in row["item"].items()
            if name != "_runtime" and not name.startswith("tables/")
        }
        for row in records["history"]
        if "train/loss" in row["item"]
    ]


def summary(records):
    values = {}
    for update in records["summary"]:
        values |= update["update"]
    return values


def test_synced_run_has_every_value_of_the_log_once(run, synced):
    rows = points(synced[0])
    assert [row["_step"] for row in rows] == [row["step"] for row in rows] == [*range(STEPS)]
    log = read_values(run / "log.jsonl")
    for row, values in zip(rows, log.values.values(), strict=True):
        assert {name: row[name] for name in values} == pytest.approx(values)
    assert sum("validation/ndcg@10" in row for row in rows) == 1 + STEPS // 4


def test_steps_have_figures_of_negatives_geometry_and_throughput(synced):
    row = points(synced[0])[5]
    assert row["train/effective_negatives_per_query"] == 7
    assert 0 <= row["train/alignment"] <= 4
    assert row["train/tokens"] > 8
    assert row["train/tokens_per_second"] > 0
    assert row["train/padding_ratio"] == 0
    assert row["train/memory_gigabytes"] > 0.1
    assert 0 < row["train/matrix_peak_ratio"] < 1


def test_dashboard_shows_what_a_run_logs(synced):
    logged = {name for row in synced[0]["history"] for name in row["item"]} | set(
        summary(synced[0])
    )
    tables = {name.rpartition("._type")[0] for name in logged if name.endswith("._type")}
    names = {metric for section in SECTIONS for panel in section.panels for metric in panel.metrics}
    missing = {name for name in names - logged - tables if not name.startswith("system/")}
    only_elsewhere = {  # a run that mines while it trains, and one with a head
        "refresh/suspected_false_negatives",
        "tables/mined_negatives",
        "tables/suspected_false_negatives",
        "train/gradient_norm_head",
        "train/gradient_norm_upper_layers",
    }
    assert missing <= only_elsewhere | {
        name for name in names if name.startswith("test/fine-tuned")
    }


def test_second_sync_writes_the_same(run, synced):
    first, second = synced
    assert points(first) == points(second)
    assert first["run"][0]["run_id"] == second["run"][0]["run_id"]
    assert first["run"][0]["config"] == second["run"][0]["config"]
    without_clock = [
        {name: value for name, value in summary(records).items() if name.startswith(("test", "b"))}
        for records in synced
    ]
    assert without_clock[0] == without_clock[1]


@pytest.mark.parametrize(("fault", "steps"), [("answers", [*range(STEPS)]), ("knows-the-run", [])])
def test_server_gets_only_the_steps_that_it_does_not_have(run, home, fault, steps):
    copy = home / fault / "a"
    shutil.copytree(run, copy)
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("s: true", "s: false"))  # no files
    with tracking_server(fault) as server:
        key = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": server.url, "WANDB_MODE": "online"}
        environment = {"HOME": str(home), **key}
        result = nearfar("sync", copy, environment=environment)
    assert result.returncode == 0, result.stderr
    files = [json.loads(body)["files"] for body in server.received if b"history.jsonl" in body]
    rows = [json.loads(row) for file in files for row in file["wandb-history.jsonl"]["content"]]
    assert [row["_step"] for row in rows if "train/loss" in row] == steps


def test_id_is_that_of_the_live_run(run, synced):
    stored = json.loads((run / "tracking.json").read_text())["run_id"]
    assert synced[0]["run"][0]["run_id"] == stored
    assert {path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")} == {stored}


def test_settings_environment_and_data_are_in_the_wandb_run(synced):
    opened = synced[0]["run"][0]
    assert (opened["run_group"], opened["job_type"]) == ("g", "train")
    assert (opened["tags"], opened["notes"]) == (["x", "y"], "n")
    config = opened["config"]["update"]
    assert config["optimization"]["batch_size"] == 8
    assert "torch" in config["environment"]["packages"]
    assert "train" in config["data_fingerprint"]
    assert "command" not in config["environment"]


def test_best_validation_score_is_the_summary_on_our_step_axis(synced):
    metrics = {
        metric.get("name", metric.get("glob_name")): metric for metric in synced[0]["metric"]
    }
    assert metrics["validation/ndcg@10"]["summary"] == {"max": True}
    assert metrics["validation/ndcg@10"]["step_metric"] == metrics["*"]["step_metric"] == "step"


def test_summary_has_systems_intervals_and_p(run, synced):
    values, evaluation = summary(synced[0]), json.loads((run / "evaluation.json").read_text())
    for system in evaluation["systems"]:
        name, interval = f"test/{system['name']}/ndcg@10", system["summary"]["ndcg@10"]
        assert values[name] == pytest.approx(interval["mean"], abs=1e-6)
        assert values[f"{name}_low"] == interval["low"]
    for comparison in evaluation["comparisons"]:
        name = f"test/{comparison['after']}/p_value_to_{comparison['before']}"
        assert values[name] == comparison["corrected_p_value"]
    assert values["status"] == "done"


def test_changed_queries_report_and_model_are_in_the_run(synced):
    names = {artifact["name"] for artifact in synced[0]["artifact"]}
    run_id = synced[0]["run"][0]["run_id"]
    assert {f"report-{run_id}", f"model-{run_id}"} <= names
    assert any("gained_queries" in name for name in names)


def test_live_wandb_run_ends_after_the_final_test(run):
    (file,) = sorted(run.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime)[-1:]
    (target := run.parent / "live" / "wandb").mkdir(parents=True)
    shutil.copytree(file, target / file.name)
    records = wandb_records(run.parent / "live")
    assert any("p_value_to_BM25" in name for name in summary(records))
    assert records["exit"][0].get("exit_code", 0) == 0
    assert points(records)[0]["_step"] == 8, "what the first attempt has logged is not repeated"


def test_live_tensorboard_has_one_curve_and_the_results(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [*range(STEPS)]
    assert "test/BM25/ndcg@10" in events.Tags()["scalars"]
    assert "tables/lost_queries/text_summary" in events.Tags()["tensors"]


def test_tensorboard_of_a_second_sync_replaces_the_first(run, home):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        sync(run, home, "--to", "tensorboard")
    events = EventAccumulator(str(run / "sync" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [*range(STEPS)]


@pytest.mark.skipif(find_spec("trackio") is None, reason="needs trackio")
def test_trackio_run_of_a_second_sync_has_every_value_once(run, home):
    import sqlite3

    for _ in range(2):
        sync(run, home, "--to", "trackio", "--project", "p")
    with sqlite3.connect(home / "trackio" / "p.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert {name for name, _, _ in rows} == {f"a-{read_id(run)}"}
    steps = [step for _, step, metrics in rows if "train/loss" in str(metrics)]
    assert sorted(steps) == [*range(STEPS)]


@pytest.mark.skipif(
    find_spec("mlflow") is None or find_spec("sqlalchemy") is None, reason="needs mlflow"
)
def test_mlflow_run_of_a_second_sync_has_every_value_once(run, home):
    import sqlite3

    recipe = run / "recipe.yaml"
    before = recipe.read_text()
    tracker = f"{{kind: mlflow, tracking_uri: 'sqlite:///{home}/mlflow.db', artifacts: false}}"
    recipe.write_text(before.replace("trackers:\n", f"trackers:\n- {tracker}\n"))
    try:
        for _ in range(2):
            sync(run, home, "--to", "mlflow")
    finally:
        recipe.write_text(before)
    with sqlite3.connect(home / "mlflow.db") as database:
        rows = database.execute("select step from metrics where key = 'train/loss'").fetchall()
        scores = database.execute(
            "select count(*) from metrics where key = 'validation/ndcg_at_10'"
        ).fetchall()
    assert sorted(step for (step,) in rows) == [*range(STEPS)]
    assert scores == [(1 + STEPS // 4,)]


def read_id(run):
    return json.loads((run / "tracking.json").read_text())["run_id"]


def test_run_that_goes_on_is_sent_without_its_latest_step(tmp_path):
    lines = ({"step": step, "time_seconds": 1.0, "train/loss": 0.5} for step in range(3))
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [*read_values(tmp_path / "log.jsonl").without_latest_step().values] == [0, 1]


def test_damaged_last_line_is_left_out_and_counted(tmp_path):
    (tmp_path / "log.jsonl").write_text(
        '{"step": 0, "time_seconds": 1.5, "train/loss": 2.0, "x": null, "non_finite": ["x"]}\n'
        '{"step": 0, "time_seconds": 1.7, "validation/map": 0.5}\n{"step": 1, "time_se'
    )
    log = read_values(tmp_path / "log.jsonl")
    assert log.values == {0: {"time_seconds": 1.7, "train/loss": 2.0, "validation/map": 0.5}}
    assert log.seconds == {0: 1.7}
    assert log.damaged_lines == 1


def test_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BadFolder, match="is not a run folder"):
        sync_run(tmp_path, WandbTracker())
    assert list(tmp_path.iterdir()) == []
