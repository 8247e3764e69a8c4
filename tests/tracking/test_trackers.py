"""Live trackers: what they write, and that they cannot harm a run."""

import json
import time

import pytest

from trainer.errors import BadRecipe
from trainer.evaluation.results import Selection
from trainer.recipe.schema.trackers import TensorboardTracker, WandbTracker
from trainer.tracking import opening
from trainer.tracking.best_effort import BestEffort
from trainer.tracking.course import read_course
from trainer.tracking.kinds.wandb_run import has_wandb_key
from trainer.tracking.opening import check_trackers, description_of_run
from trainer.tracking.results import summary_of_selection
from trainer.tracking.settings import read_trackers
from trainer.tracking.tracked_run import Results
from trainer.tracking.trackers import start_trackers


class Dies:
    """A run of a tracker whose server goes away after the second record."""

    def __init__(self):
        self.calls = 0

    def log(self, values, step, timestamp):
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("the server at https://me:secret-word@host went away")

    def end(self, results, is_done):
        raise AssertionError("must not be called once the tracker has failed")


def ended(tracker):
    tracker.end(Results, is_done=True)
    tracker.wait(time.monotonic() + 20)
    return tracker


def test_tracker_that_fails_is_named_once_and_not_used_again(capsys):
    run = Dies()
    logger = BestEffort("dies", lambda: run)
    for step in range(5):
        logger.log_metrics({"train/loss": 1.0}, step)
    ended(logger)
    assert run.calls == 2
    warning = capsys.readouterr().err
    assert warning.count("tracker dies failed") == 1
    assert "`nearfar sync RUN` sends it" in warning
    assert "secret-word" not in warning


def test_tracker_that_cannot_be_opened_does_not_stop_the_run(capsys):
    def fail():
        raise RuntimeError("no server")

    logger = BestEffort("remote", fail)
    logger.log_metrics({"train/loss": 1.0}, 0)
    assert ended(logger).has_failed
    assert "no server" in capsys.readouterr().err


def test_tracker_gets_finite_values_of_new_steps_only():
    class Records(list):
        def log(self, values, step, timestamp):
            self.append((step, values))

        def end(self, results, is_done):
            self.append(results)

    records = Records()
    logger = BestEffort("records", lambda: records, {"train/loss": 1})
    for step in range(4):
        logger.log_metrics({"train/loss": 1.0 if step < 3 else float("nan")}, step)
    ended(logger)
    assert records == [(2, {"train/loss": 1.0}), Results()]


def test_missing_package_is_named_with_advice(monkeypatch, tmp_path):
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(BadRecipe, match=r"tensorboard.*pip install tensorboard"):
        check_trackers((TensorboardTracker(),))
    with pytest.raises(BadRecipe, match="pip install wandb"):
        start_trackers((WandbTracker(),), tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_id_of_a_run_stays_when_it_is_moved_and_changes_when_it_starts_again(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "environment.json").write_text('{"started": "2026-01-01T00:00:00+00:00"}')
    first = read_course(folder).run_id
    (folder / "tracking.json").unlink()
    folder.rename(tmp_path / "b")
    assert read_course(tmp_path / "b").run_id == first == read_course(tmp_path / "b").run_id
    (tmp_path / "b" / "tracking.json").unlink()
    (tmp_path / "b" / "environment.json").write_text('{"started": "2026-01-02T00:00:00+00:00"}')
    assert read_course(tmp_path / "b").run_id != first


def test_configuration_has_environment_and_data_but_no_command_or_secret(tmp_path):
    environment = {"command": "nearfar fit", "host": "h", "python": "3.11", "data": {"rows": 5}}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    recipe = {"data": {"train": "https://me:secret-word@host/pairs.jsonl"}}
    config = description_of_run(tmp_path, recipe).config
    assert config["environment"] == {"python": "3.11"}
    assert config["data_fingerprint"] == {"rows": 5}
    assert "secret-word" not in json.dumps(config)


def test_settings_on_the_command_line_are_those_of_a_recipe():
    wandb, tensorboard = read_trackers(["{kind: wandb, group: g, tags: [a]}", "tensorboard"])
    assert wandb == WandbTracker(group="g", tags=("a",))
    assert tensorboard == TensorboardTracker()
    problems = {
        "wandbb": "wandbb is no kind of tracker",
        "{kind: wandb, grup: g}": r"wandb.grup is not a key; did you mean group\?",
        "[wandb]": "",
    }
    for text, problem in problems.items():
        with pytest.raises(BadRecipe, match=f"{problem}; give wandb, tensorboard, mlflow or"):
            read_trackers([text])


def test_key_is_read_from_the_environment_and_netrc(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    file = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(file))
    assert not has_wandb_key()
    file.write_text("machine api.wandb.ai login user password " + "k" * 40 + "\n")
    file.chmod(0o600)
    assert has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert has_wandb_key()


@pytest.mark.parametrize(
    ("selection", "share", "score"),
    [
        (Selection(0.2, 0.8, 5), 1.0, 0.8),
        (Selection(0.2, 0.8, 5, share=0.5, share_score=0.79), 0.5, 0.79),
        (Selection(0.9, 0.8, 5), 0.0, 0.8),
    ],
)
def test_summary_tells_how_much_of_the_change_was_saved(selection, share, score):
    summary = summary_of_selection(selection)
    assert (summary["best/share"], summary["best/validation_ndcg@10"]) == (share, score)
