"""The sweep of W&B: its file, the command of one sample as W&B's agent builds it, and the same
sweep without an account.
"""

import json
from pathlib import Path

import pytest
from forked import nearfar
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args, load_sweep_config

from trainer.recipe.keys import all_keys
from trainer.recipe.load import load_recipe

REPOSITORY = Path(__file__).parents[2]
SWEEPS = sorted((REPOSITORY / "recipes" / "sweeps").glob("*.yaml"))
RUN_ID = "s4mpl3"


@pytest.fixture(params=SWEEPS, ids=lambda path: path.stem)
def sweep(request):
    return load_sweep_config(str(request.param))


@pytest.fixture(scope="module")
def small(tmp_path_factory, toy_folder):
    """Words for a run of two steps, and its output folder."""
    folder = tmp_path_factory.mktemp("sweep")
    rows = [{"query": f"disk {n}", "positive": f"the size of disk {n}"} for n in range(150)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [
        *(f"model.backbone={toy_folder('bert')}", f"data.train={folder}/pairs.jsonl"),
        *(f"output={folder}", "optimization.max_steps=2", "optimization.warmup_steps=0"),
        *("machine.accelerator=cpu", "machine.threads=1"),
    ]
    return folder, words


def sample(sweep, place):
    """The words of the agent's command for the smallest (0) or largest (-1) value of each key."""
    args = {
        key: {"value": values["values"][place] if "values" in values else values["min"]}
        for key, values in sweep["parameters"].items()
    }
    return create_sweep_command_args({"args": args})["args_no_hyphens"]


def test_sweep_changes_keys_of_its_recipe_and_watches_what_is_logged(sweep):
    keys = {".".join(map(str, key.path)) for key in all_keys()}
    assert set(sweep["parameters"]) <= keys
    assert sweep["metric"] == {"name": "validation/ndcg@10", "goal": "maximize"}
    assert sweep["command"][:2] == ["${program}", "fit"]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    for place in (0, -1):
        load_recipe(
            REPOSITORY / sweep["command"][2], [*sweep["command"][3:-1], *sample(sweep, place)]
        )


def test_command_of_a_sample_is_a_run_with_the_name_and_id_of_the_agent(sweep, small):
    folder, words = small
    command = [*sweep["command"][1:-1], *sample(sweep, 0), *words]
    environment = {
        "HOME": str(folder),
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "sw33p",
        "WANDB_RUN_ID": RUN_ID,
    }
    result = nearfar(*command, folder=REPOSITORY, environment=environment)
    assert result.returncode == 0, result.stderr
    run = folder / f"bi-encoder-lora-{RUN_ID}"
    assert json.loads((run / "tracking.json").read_text())["run_id"] == RUN_ID
    (file,) = run.glob(f"wandb/offline-run-*-{RUN_ID}/*.wandb")
    assert b"validation/ndcg@10" in file.read_bytes()


def test_sweep_without_an_account_leaves_out_what_is_finished(small):
    folder, words = small
    for seed in (1, 2):
        run = folder / f"local-seed-{seed}"
        run.mkdir()
        status = {"status": "done", "selection": {"best_score": 0.1 * seed}}
        (run / "status.json").write_text(json.dumps(status))
    result = nearfar("fit", "bi-encoder-lora", *words, "name=local", "--sweep", "seed=1,2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "validation nDCG@10 0.200  seed=2",
        "validation nDCG@10 0.100  seed=1",
    ]
    assert result.stderr.count("is finished; nothing is left to do") == 2


def test_sweep_refuses_options_that_it_would_not_pass_on(small):
    _, words = small
    result = nearfar("fit", "bi-encoder-lora", *words, "--sweep", "seed=1", "--replace")
    assert result.returncode == 2
    assert "so --replace and --accept-changes have no effect" in " ".join(result.stderr.split())


def test_run_of_a_sweep_that_fails_is_named_and_the_others_go_on(small):
    _, words = small
    sweep = ("--sweep", "model.backbone=/nowhere/a,/nowhere/b")
    result = nearfar("fit", "bi-encoder-lora", *words, "name=bad", *sweep, "data.train=missing")
    assert result.returncode == 2
    assert "run 2 of 2: model.backbone=/nowhere/b" in result.stderr
    assert result.stdout.count("validation nDCG@10 not started") == 2
