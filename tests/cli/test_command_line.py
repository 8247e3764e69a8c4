"""The `nearfar` command: its verbs, how it ends, and how quickly it answers."""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer.cli import main as command
from trainer.errors import BadData, Interrupted, NonFinite, TooManyBadRows
from trainer.recipe.load import load_recipe

VERBS = (
    "fit",
    "launch",
    "pipeline",
    "check",
    "evaluate",
    "cut",
    "mine",
    "encode",
    "index",
    "add",
    "delete",
    "search",
    "report",
    "data",
    "recipe",
)
HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "datasets",
    "pydantic",
    "rich",
    "yaml",
    "pytorch_lightning",
    "wandb",
    "faiss",
)


def nearfar(*arguments: str, **options) -> subprocess.CompletedProcess[str]:  # type: ignore[no-untyped-def]
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture
def quickstart(repository: Path) -> str:
    return str(repository / "recipes/quickstart.yaml")


class TestHelp:
    def test_help_names_every_verb(self) -> None:
        shown = CliRunner().invoke(command.app, ["--help"])
        assert shown.exit_code == 0
        verbs = re.findall(r"^  ([a-z]+) ", shown.output.split("Commands:")[1], flags=re.MULTILINE)
        assert sorted(verbs) == sorted(VERBS)

    @pytest.mark.parametrize("verb", VERBS)
    def test_verb_has_help(self, verb: str) -> None:
        shown = CliRunner().invoke(command.app, [verb, "--help"])
        assert shown.exit_code == 0
        assert f"Usage: root {verb}" in shown.output or f"{verb} [OPTIONS]" in shown.output

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            f"import sys, trainer.cli.main; print([name for name in {HEAVY} if name in"
            " sys.modules])"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
        )
        assert ended.stdout.strip() == "[]"

    @pytest.mark.skipif(
        os.getloadavg()[0] > (os.cpu_count() or 1),
        reason="the machine is busy; a time would say nothing",
    )
    def test_help_is_quick(self) -> None:
        times = []
        for _ in range(10):
            before = time.perf_counter()
            nearfar("--help")
            times.append(time.perf_counter() - before)
        assert statistics.median(times) < 0.3


class TestRecipe:
    def test_recipe_check_shows_what_it_amounts_to(self, quickstart: str) -> None:
        shown = CliRunner().invoke(
            command.app, ["recipe", "check", quickstart, "optimization.max_steps=7"]
        )
        assert shown.exit_code == 0
        assert f"{quickstart}: ok" in shown.output
        assert "7 steps" in shown.output
        assert "runs/quickstart" in shown.output

    def test_recipe_show_prints_a_recipe(self, quickstart: str, tmp_path: Path) -> None:
        shown = CliRunner().invoke(command.app, ["recipe", "show", quickstart, "seed=7"])
        path = tmp_path / "shown.yaml"
        path.write_text(shown.output, encoding="utf-8")
        assert load_recipe(path) == load_recipe(quickstart, ["seed=7"])
        assert load_recipe(path).seed == 7

    def test_recipe_explain_describes_a_key(self) -> None:
        whole, one = (
            CliRunner().invoke(command.app, ["recipe", "explain", *keys]).output
            for keys in ((), ("optimization.epochs",))
        )
        assert one.startswith("optimization.epochs = 1 ")
        assert one in whole

    def test_recipe_schema_is_json(self, repository: Path) -> None:
        shown = CliRunner().invoke(command.app, ["recipe", "schema"]).output
        assert json.loads(shown)["$defs"]["BiEncoderRecipe"]["properties"]["model"]
        assert shown == (repository / "docs/recipe.schema.json").read_text(encoding="utf-8")


class TestEnding:
    def test_bad_input_ends_with_2_and_one_message(self, quickstart: str) -> None:
        ended = nearfar("recipe", "check", quickstart, "optimization.epoch=3")
        assert ended.returncode == 2
        assert (
            ended.stderr == "error: command line: optimization.epoch is not a key; did you mean"
            " optimization.epochs?\n"
        )
        assert ended.stdout == ""

    def test_bad_recipe_is_refused_before_heavy_imports(self, tmp_path: Path) -> None:
        ended = nearfar(
            "fit",
            "none.yaml",
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(command.__file__).parents[2])},
        )
        assert ended.returncode == 2
        assert "there is no file none.yaml" in ended.stderr
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "arguments",
        [
            ["recip"],
            ["recipe"],
            ["recipe", "check"],
            ["--nonsense"],
            ["recipe", "check", "x", "--k"],
        ],
    )
    def test_wrong_usage_ends_with_2(self, arguments: list[str]) -> None:
        assert CliRunner().invoke(command.app, arguments).exit_code == 2

    @pytest.mark.parametrize(
        ("error", "code", "begins"),
        [
            (BadData("x"), 2, "error: x"),
            (NonFinite("x"), 86, "error: x"),
            (TooManyBadRows("x"), 87, "error: x"),
            (Interrupted("x"), 130, "stopped: x"),
        ],
    )
    def test_errors_have_their_exit_codes(
        self, error: Exception, code: int, begins: str, monkeypatch, capsys
    ) -> None:
        assert self.ends(error, monkeypatch) == code
        assert capsys.readouterr().err.startswith(begins)

    def test_ctrl_c_ends_with_130(self, monkeypatch) -> None:
        assert self.ends(KeyboardInterrupt(), monkeypatch) == 130

    def test_bug_keeps_its_traceback(self, monkeypatch) -> None:
        with pytest.raises(ZeroDivisionError):
            self.ends(ZeroDivisionError(), monkeypatch)

    def test_message_moves_no_cursor(self, monkeypatch, capsys) -> None:
        self.ends(BadData("\x1b[2Jx\nsecond line"), monkeypatch)
        assert capsys.readouterr().err == "error: \\x1b[2Jx\nsecond line\n"

    @staticmethod
    def ends(error: BaseException, monkeypatch) -> object:
        """The exit code when the verb `recipe schema` raises `error`."""

        def raising() -> None:
            raise error

        monkeypatch.setattr("trainer.recipe.explain.json_schema", raising)
        monkeypatch.setattr(sys, "argv", ["nearfar", "recipe", "schema"])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return ended.value.code

    @pytest.mark.skipif(os.name == "nt", reason="pipes of Unix")
    def test_closed_output_ends_the_command_quietly(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "trainer", "recipe", "schema"],
                stdout=writing,
                stderr=subprocess.PIPE,
                text=True,
                timeout=300,
                check=False,
            )
        finally:
            os.close(writing)
        assert ended.returncode == command.READER_GONE
        assert ended.stderr == ""

    def test_other_broken_pipe_is_a_bug(self, monkeypatch) -> None:
        with pytest.raises((BrokenPipeError, SystemExit)) as raised:
            self.ends(BrokenPipeError("some socket"), monkeypatch)
        assert not isinstance(raised.value, SystemExit) or raised.value.code not in (0, None)
