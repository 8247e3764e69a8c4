"""S09: canary secrets in the environment, on the command line, in the recipe, in token files and in
errors reach no byte of a run folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.storage.redaction import redact, redact_command, redact_tree

CANARY = "c4narySecretc4nary"
RUN = """
import sys, warnings
warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
from pathlib import Path
import pytorch_lightning as lightning
import torch
import yaml
from trainer.recipe.schema.trackers import TensorboardTracker, WandbTracker
from trainer.report.run_page import write_report
from trainer.runtime.log import JsonlLogger
from trainer.runtime.run_folder import RunFolder
from trainer.tracking.trackers import run_trackers

class Toy(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, number):
        self.log("train/loss", 0.5)
        return self.layer(batch).mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

folder, recipe = Path(sys.argv[1]), yaml.safe_load(sys.argv[2])
print("key", __import__("os").environ["WANDB_API_KEY"][-3:])
try:
    data = {"train": recipe["data"]["train"]}
    with RunFolder.create(folder, yaml.safe_dump(recipe), sys.argv[3:], data) as run:
      settings = WandbTracker(), TensorboardTracker()
      with run_trackers(settings, run.path, recipe) as trackers:
        loggers = [JsonlLogger(run.log_path), *trackers]
        quiet = dict(enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1)
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=loggers,
                                    enable_checkpointing=False, **quiet)
        trainer.fit(Toy(), torch.utils.data.DataLoader(torch.ones(3, 1)))
        assert trackers
        raise ConnectionError("no answer from " + recipe["data"]["train"])
except ConnectionError:
    write_report(folder)
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text(f"hf_{CANARY}file")
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {CANARY}netrc\n")
    (home / ".netrc").chmod(0o600)
    folder = home / "runs" / "a-run"
    recipe = f"""
name: a-run
model: {{backbone: plain-canary}}
data: {{train: "https://user:{CANARY}url@host.example/pairs.jsonl?token={CANARY}query", test: "s3://{CANARY}name:{CANARY}pass@bucket/x"}}
"""
    command = [
        "nearfar",
        "fit",
        "r.yaml",
        f"--token={CANARY}option",
        "--api-key",
        f"{CANARY}word",
        f"data.train=https://u:{CANARY}cli@host/x",
    ]
    secrets = {
        "WANDB_API_KEY": f"{CANARY}".ljust(40, "w"),
        "HF_TOKEN": f"hf_{CANARY}environment",
        "AWS_SECRET_ACCESS_KEY": f"{CANARY}aws",
        "DATABASE_PASSWORD": f"{CANARY}password",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {
        **clean,
        **secrets,
        "HOME": str(home),
        "HF_HOME": str(home / ".cache" / "huggingface"),
        "WANDB_MODE": "offline",
    }
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), recipe, *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
    assert "key www" in result.stdout, "the canary must have been in the environment"
    assert CANARY not in result.stdout + result.stderr
    return folder


def test_s09_run_folder_has_no_secret(run_folder):
    for path in run_folder.rglob("*"):
        assert CANARY not in str(path)
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_s09_files_that_could_have_a_secret_exist(run_folder):
    """Were these missing, or written in a form a search cannot see, the test above could not
    fail.
    """
    for pattern in (
        "recipe.yaml",
        "environment.json",
        "status.json",
        "report.html",
        "log.jsonl",
        "wandb/*/*.wandb",
        "tensorboard/events*",
    ):
        assert list(run_folder.glob(pattern)), pattern
    for pattern in ("recipe.yaml", "report.html", "wandb/*/*.wandb", "tensorboard/hparams.yaml"):
        assert all(b"plain-canary" in path.read_bytes() for path in run_folder.glob(pattern)), (
            pattern
        )
    assert (
        "ConnectionError: no answer from https://***@host.example"
        in (run_folder / "status.json").read_text()
    )
    assert (
        "write the secret there before running this file again"
        in (run_folder / "recipe.yaml").read_text()
    )


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{CANARY}@host/x",
        f"postgresql+psycopg://me:{CANARY}@host",
        f"--token={CANARY}",
        f"HF_TOKEN={CANARY}",
        f"api_key: {CANARY}",
        f'{{"password": "{CANARY}"}}',
        f"https://host/x?sig={CANARY}&a=1",
        (f"Authorization: {CANARY}"),
        f"hub.token={CANARY}",
        "hf_" + CANARY,
        "ghp_" + CANARY,
        f"Authorization: Bearer {CANARY}",
        f"secret = '{CANARY}'",
    ],
)
def test_s09_known_shapes_of_secrets_are_hidden(text):
    assert CANARY not in redact(text)
    assert CANARY not in redact_command([text])


@pytest.mark.parametrize(
    "text",
    [
        ("micro_batch_tokens: 4096"),
        ("pooling: last_token"),
        "query_max_length_tokens=64",
        "data.train=https://host/pairs.jsonl",
        ("columns: {query: question, positive: answer}"),
        "name: keyword-search",
        "https://host/a@b",
        ("monkey: 3"),
        "design: 7",
        "assignment=4",
        "0123456789abcdef0123456789abcdef01234567",
        "seed: 13",
        "optimization.learning_rate=1e-3",
    ],
)
def test_s09_other_texts_are_not_redacted(text):
    assert redact(text) == text


def test_s09_secrets_under_a_key_are_hidden_in_any_form():
    assert redact_tree(
        {"hub": {"token": 12345678, "rank": 32}, "list": [{"api_key": ["a", "b"]}]}
    ) == {
        "hub": {"token": "***", "rank": 32},
        "list": [{"api_key": "***"}],
    }


def test_s09_secrets_of_the_environment_are_hidden_everywhere(monkeypatch):
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "plain looking words")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    assert (
        redact("error: plain looking words were refused, parallel")
        == "error: *** were refused, parallel"
    )
