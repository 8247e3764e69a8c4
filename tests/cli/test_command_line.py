"""The `nearfar` command: its verbs, how it ends, and how quickly it answers."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from trainer.cli import main as command_line
from trainer.errors import BadData, Interrupted, NonFinite, TooManyBadRows
from trainer.recipe.load import load_recipe

VERBS = (
    "fit",
    "launch",
    "submit",
    "pipeline",
    "check",
    "evaluate",
    "rag",
    "cut",
    "select",
    "blend",
    "mine",
    "encode",
    "index",
    "add",
    "delete",
    "search",
    "runs",
    "compare",
    "sync",
    "dashboard",
    "report",
    "data",
    "recipe",
    "route",
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


def all_commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """A command and all below it, with their full names."""
    yield name, command
    for verb, subcommand in getattr(command, "commands", {}).items():
        yield from all_commands(subcommand, f"{name} {verb}")


@pytest.fixture
def quickstart(repository: Path) -> str:
    return str(repository / "recipes/quickstart.yaml")


class TestHelp:
    def test_help_names_every_verb(self) -> None:
        shown = CliRunner().invoke(command_line.app, ["--help"])
        assert shown.exit_code == 0
        verbs = re.findall(r"^  ([a-z]+) ", shown.output.split("Commands:")[1], flags=re.MULTILINE)
        assert sorted(verbs) == sorted(VERBS)

    @pytest.mark.parametrize("verb", VERBS)
    def test_verb_has_help(self, verb: str) -> None:
        shown = CliRunner().invoke(command_line.app, [verb, "--help"])
        assert shown.exit_code == 0
        assert f"Usage: root {verb}" in shown.output or f"{verb} [OPTIONS]" in shown.output

    def test_option_has_help(self) -> None:
        unexplained = [
            f"{name} {parameter.name}"
            for name, command in all_commands(typer.main.get_command(command_line.app), "nearfar")
            for parameter in command.params
            if not parameter.help and not parameter.hidden
        ]
        assert unexplained == []

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            f"import sys, trainer.cli.main; print([name for name in {HEAVY} if name in"
            " sys.modules])"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
        )
        assert ended.stdout.strip() == "[]"


class TestVersion:
    def test_version_is_that_of_the_distribution(self) -> None:
        shown = CliRunner().invoke(command_line.app, ["--version"])
        assert (shown.exit_code, shown.output) == (0, f"nearfar {metadata.version('nearfar')}\n")


class TestCompletion:
    @staticmethod
    def completed(words: str, place: int) -> list[str]:
        """What a shell would offer for the word at a place of a command."""
        asked = {"_NEARFAR_COMPLETE": "complete_bash", "COMP_WORDS": words}
        ended = nearfar(env={**os.environ, **asked, "COMP_CWORD": str(place)})
        return ended.stdout.split()

    def test_verb_is_completed(self) -> None:
        assert self.completed("nearfar re", 1) == ["report", "recipe"]

    def test_option_is_completed(self) -> None:
        assert self.completed("nearfar mine --bm", 2) == ["--bm25-negatives"]

    def test_completion_script_is_shown(self) -> None:
        no_detection = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        shown = nearfar("--show-completion", "zsh", env={**os.environ, **no_detection})
        assert "_NEARFAR_COMPLETE=complete_zsh" in shown.stdout


class TestRecipe:
    def test_recipe_check_shows_what_it_amounts_to(self, quickstart: str) -> None:
        shown = CliRunner().invoke(
            command_line.app, ["recipe", "check", quickstart, "optimization.max_steps=7"]
        )
        assert shown.exit_code == 0
        assert f"{quickstart}: ok" in shown.output
        assert "7 steps" in shown.output
        assert "runs/quickstart" in shown.output

    def test_recipe_show_prints_a_recipe(self, quickstart: str, tmp_path: Path) -> None:
        shown = CliRunner().invoke(command_line.app, ["recipe", "show", quickstart, "seed=7"])
        path = tmp_path / "shown.yaml"
        path.write_text(shown.output, encoding="utf-8")
        assert load_recipe(path) == load_recipe(quickstart, ["seed=7"])
        assert load_recipe(path).seed == 7

    def test_recipe_explain_describes_a_key(self) -> None:
        whole, one = (
            CliRunner().invoke(command_line.app, ["recipe", "explain", *keys]).output
            for keys in ((), ("optimization.epochs",))
        )
        assert one.startswith("optimization.epochs = 1 ")
        assert one in whole

    def test_recipe_schema_is_json(self, repository: Path) -> None:
        shown = CliRunner().invoke(command_line.app, ["recipe", "schema"]).output
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
            env={**os.environ, "PYTHONPATH": str(Path(command_line.__file__).parents[2])},
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
        assert CliRunner().invoke(command_line.app, arguments).exit_code == 2

    @pytest.mark.parametrize(
        ("words", "suggestion"),
        [
            ("fit quickstart --epochs 3", "did you mean optimization.epochs?"),
            ("fit quickstart --epoch 3", "did you mean optimization.epochs?"),
            ("fit quickstart --optimization.epochs=3", "did you mean optimization.epochs?"),
            ("check quickstart --batch-size 8", "did you mean optimization.batch_size?"),
            ("recipe show quickstart --lr 1e-4", "write optimization.learning_rate"),
            ("launch --machine m.yaml quickstart --device cuda", "write machine.accelerator"),
        ],
    )
    def test_setting_written_as_an_option_is_named(self, words: str, suggestion: str) -> None:
        result = CliRunner().invoke(command_line.app, words.split())
        assert result.exit_code == 2
        message = " ".join(re.sub("[│╭╰─╮╯]", " ", result.stderr).split())
        assert f"A setting of the recipe is written KEY=VALUE, no dashes; {suggestion}" in message

    @pytest.mark.parametrize(
        "words",
        [
            *("fit x --zzzzzz", "fit x --resum", "fit x --replac", "fit x --accept-change"),
            *("check x --node-ran 1", "check x --machin m.yaml", "check x --no-prob"),
            *("check x --main-adress host", "search docs/index what --lr 3"),
        ],
    )
    def test_other_unknown_option_gets_no_advice_about_recipes(self, words: str) -> None:
        result = CliRunner().invoke(command_line.app, words.split())
        assert "No such option" in result.stderr
        assert "KEY=VALUE, no dashes" not in result.stderr

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

    def test_bug_ends_with_1_and_its_traceback(self, monkeypatch, capsys) -> None:
        assert self.ends(ZeroDivisionError(), monkeypatch) == 1
        printed = capsys.readouterr().err
        assert printed.startswith("Traceback")
        assert printed.endswith("ZeroDivisionError\n")

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
            command_line.main()
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
        assert ended.returncode == command_line.READER_GONE
        assert ended.stderr == ""

    def test_other_broken_pipe_is_a_bug(self, monkeypatch) -> None:
        assert self.ends(BrokenPipeError("some socket"), monkeypatch) == 1
