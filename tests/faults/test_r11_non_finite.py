"""R11: a loss or gradient that is not finite ends the run with 86 before the update, names the
rows, and leaves no model behind.
"""

import json
import shutil

import forked
import pytest
import torch
from killable import Command, Run
from safetensors.torch import load_file, save_file

from trainer.cli.fit import fit
from trainer.modules.retriever import NonFiniteStep

RECIPE = "recipes/bi-encoder-lora.yaml"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "train.jsonl"
    with path.open("w") as file:
        for number in range(40):
            file.write(
                json.dumps(
                    {
                        "query": f"delete disk {number}",
                        "positive": f"removes the disk {number} of {number * 7}",
                    }
                )
                + "\n"
            )
    return path


def settings(backbone, data, folder, *more):
    return [
        f"model.backbone={backbone}",
        f"data.train={data}",
        f"output={folder}",
        "name=r11",
        "optimization.batch_size=8",
        "optimization.epochs=2",
        "optimization.warmup_steps=0",
        "machine.accelerator=cpu",
        "machine.precision=fp32",
        "machine.threads=1",
        *more,
    ]


def check_left_behind(folder, data, step):
    """What the run folder must hold, and must not."""
    record = json.loads((folder / "non_finite.json").read_text())
    assert record["step"] == step
    assert len(record["rows"]) == 8
    lines = data.read_text().splitlines()
    for place in record["rows"]:
        name, _, line = place.rpartition(":")
        assert name.endswith("train.jsonl")
        assert 1 <= int(line) <= len(lines)
    assert not (folder / "model").exists()
    assert not (folder / "evaluation.json").exists()
    for weights in folder.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(weights).values()), (
            f"{weights} holds numbers that are not finite"
        )
    for line in (
        (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else ()
    ):
        json.loads(line)
    return record


def command(*given, repository):
    return forked.nearfar("fit", RECIPE, *given, folder=repository)


def test_nan_in_the_loss_ends_the_command_with_86(tmp_path, toy_folder, data, repository):
    """A temperature that is zero in float32."""
    ended = command(
        *settings(toy_folder("bert"), data, tmp_path / "runs", "objective.temperature=1e-60"),
        repository=repository,
    )
    assert ended.returncode == 86, ended.stderr
    assert "error: step 1: the loss is nan" in ended.stderr
    assert "non_finite.json" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert check_left_behind(tmp_path / "runs" / "r11", data, step=1)["loss"] == "nan"


def test_model_with_a_nan_weight_is_refused_before_the_first_step(
    tmp_path, toy_folder, data, repository
):
    broken = tmp_path / "broken"
    shutil.copytree(toy_folder("bert"), broken)
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.1.output.dense.weight"))
    weights[name][3, 4] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    ended = command(*settings(broken, data, tmp_path / "runs"), repository=repository)
    assert ended.returncode == 2, ended.stderr
    assert "its weights are damaged" in ended.stderr
    assert not (tmp_path / "runs" / "r11" / "model").exists()


def test_huge_learning_rate_ends_the_command_with_86(tmp_path, toy_folder, data, repository):
    given = settings(
        toy_folder("bert"),
        data,
        tmp_path / "runs",
        "optimization.learning_rate=1e37",
        "optimization.gradient_clip_norm=null",
    )
    with pytest.raises(NonFiniteStep) as raised:
        fit(repository / RECIPE, given)
    assert raised.value.exit_code == 86
    assert (
        check_left_behind(tmp_path / "runs" / "r11", data, step=raised.value.record["step"])["step"]
        > 1
    )


def test_infinite_gradient_ends_the_command_with_86(tmp_path, toy_folder, data, repository):
    """A temperature so small that the loss still fits float32 and its gradient does not."""
    given = settings(
        toy_folder("bert"),
        data,
        tmp_path / "runs",
        "objective.temperature=1e-37",
        "model.tuning={kind: full}",
    )
    with pytest.raises(NonFiniteStep) as raised:
        fit(repository / RECIPE, given)
    record = check_left_behind(tmp_path / "runs" / "r11", data, step=1)
    assert torch.tensor(float(record["loss"])).isfinite()
    assert record["gradient_norm"] in ("inf", "nan")
    assert "no weight was changed" in str(raised.value)


def break_second_rank(rank):
    """The loss of rank 1 alone is NaN at step 5."""
    from trainer.modules.retriever import Retriever

    training_step = Retriever.training_step

    def broken_step(self, *arguments):
        loss = training_step(self, *arguments)
        return loss * float("nan") if rank == 1 and self.global_step == 5 else loss

    Retriever.training_step = broken_step


def test_nan_on_one_rank_alone_ends_all_ranks_with_86(tmp_path, toy_folder):
    run = Run(tmp_path, toy_folder("bert"), "bi-encoder-full")
    command = Command(*run.words("a"), ranks=2, before=break_second_rank)
    assert command.wait() == [86, 86], command.text()
    assert json.loads((run.path("a") / "non_finite.json").read_text())["rows"]
    assert len(run.losses("a")) == 5, "the update of the step was made"
    weights = run.weights("a")
    assert weights
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (run.path("a") / "model").exists()
