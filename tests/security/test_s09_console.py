"""S09: the same canaries on the console and in all files of a real command: a run with its model
card and tracking files, refused commands, and a bug of ours.
"""

import os
import subprocess
import sys

import forked
import pytest
from tracking_server import tracking_server

CANARY = "c4nary"
VARIABLES = (
    "DATABASE_PASSWORD",
    "DB_PASS",
    "SSHPASS",
    "REGISTRY_AUTH",
    "SESSION_COOKIE",
    "COOKIE_JAR",
    "HF_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "PRIVATE_KEY",
    "MYSQL_PWD",
)
SECRETS = {name: f"{CANARY} of {name}" for name in VARIABLES} | {
    "HTTP_PROXY_OF_TEAM": f"http://me:{CANARY}%20proxy@proxy.example:8080",
    "DATABASE_URL": f"postgres://me:{CANARY}-url@host/db",
    "CERTIFICATE_KEY": f"-----BEGIN-----\n{CANARY} line 1\n{CANARY} line 2",
}
BUG = """
import os, sys, logging, warnings
from trainer.cli import main

def bug(**_):
    secrets = [value for value in os.environ.values() if "c4nary" in value]
    print("result", *secrets, *sys.argv)
    print("message", *secrets, *sys.argv, file=sys.stderr)
    logging.warning("log %s", secrets)
    warnings.warn(f"warning {secrets}")
    raise ConnectionError(f"no answer {secrets} {sys.argv}")

main.app = bug
main.main()
"""


def clean_environment(home):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("WANDB")
    }
    return {**environment, "HOME": str(home), "HF_HOME": str(home / "hub")}


@pytest.mark.parametrize("rank", ["0", "1"])
def test_s09_bug_prints_no_secret(tmp_path, repository, rank):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "token").write_text(f"{CANARY}-of-the-hub")
    (tmp_path / ".netrc").write_text(f"machine host login me password {CANARY}-of-netrc\n")
    (tmp_path / ".netrc").chmod(0o600)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{train: 'https://me:{CANARY}recipe@host/x'}}")
    words = [recipe, f"--token={CANARY}-option", "--api-key", f"{CANARY}-word"]
    stored = [f"{CANARY}-of-the-hub", f"{CANARY}-of-netrc", f"{CANARY}recipe"]
    ended = subprocess.run(
        [sys.executable, "-c", BUG, *words, f"u=https://me:{CANARY}cli@host/x", *stored],
        env={**clean_environment(tmp_path), **SECRETS, "RANK": rank},
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    printed = ended.stdout + ended.stderr
    for start in ("result ***", "message ***", "WARNING:root:log", "UserWarning: warning"):
        assert start in printed, "it must have been printed for this test to mean anything"
    assert "ConnectionError: no answer" in ended.stderr
    assert CANARY not in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.train=https://me:SECRET@127.0.0.1:9/x.jsonl"], "***@127.0.0.1"),
        (["data.train=https://host/x?sig=SECRET"], "sig=***"),
        (["--api-key", "SECRET"], "No such option: --api-key"),
        (["--api-key=SECRET"], "No such option: --api-key"),
        (["objective.token=SECRET"], "token"),
    ],
)
def test_s09_refused_command_prints_no_secret(tmp_path, repository, toy_folder, words, message):
    words = [word.replace("SECRET", f"{CANARY}-word") for word in words]
    ended = forked.nearfar(
        "fit",
        "recipes/bi-encoder-lora.yaml",
        f"model.backbone={toy_folder('bert')}",
        f"output={tmp_path}",
        *words,
        folder=repository,
        environment=SECRETS,
    )
    assert ended.returncode == 2
    assert message in ended.stderr
    assert CANARY not in ended.stdout + ended.stderr


def test_s09_recipe_is_shown_without_secrets(tmp_path, repository):
    url = f"https://me:{CANARY}-word@host/x.jsonl"
    ended = forked.nearfar(
        "recipe", "show", "recipes/bi-encoder-lora.yaml", f"data.train={url}", folder=repository
    )
    assert "https://***@host/x.jsonl" in ended.stdout
    assert CANARY not in ended.stdout + ended.stderr


def test_s09_run_leaves_no_secret_in_its_folder_or_on_the_console(tmp_path, repository, toy_folder):
    rows = [f'{{"query": "disk {number}", "positive": "size {number}"}}' for number in range(40)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    settings = {
        "model.backbone": toy_folder("bert"),
        "data.train": tmp_path / "train.jsonl",
        "output": tmp_path,
        "name": "canaries",
        "trackers": "[{kind: wandb, project: tests}, {kind: tensorboard}]",
        "optimization.batch_size": 8,
        "optimization.warmup_steps": 0,
        "machine.accelerator": "cpu",
        "machine.threads": 1,
    }
    with tracking_server("refuses-the-key") as server:
        ended = forked.nearfar(
            "fit",
            "recipes/bi-encoder-lora.yaml",
            *(f"{key}={value}" for key, value in settings.items()),
            folder=repository,
            environment={
                **SECRETS,
                "WANDB_MODE": "online",
                "WANDB_SILENT": "false",
                "WANDB_API_KEY": CANARY * 7,
                "WANDB_BASE_URL": server.url.replace("//", f"//me:{CANARY}-server@"),
            },
        )
    assert ended.returncode == 0, ended.stderr
    assert "http://127.0.0.1" in ended.stderr, "the client names the server"
    assert CANARY not in ended.stdout + ended.stderr
    folder = tmp_path / "canaries"
    for pattern in ("model/README.md", "wandb/offline-*/*.wandb", "tensorboard/*", "console.txt"):
        assert list(folder.glob(pattern)), (pattern, ended.stderr)
    for path in folder.rglob("*"):
        assert CANARY not in str(path)
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path
