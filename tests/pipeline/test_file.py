"""What a pipeline file may say; everything else is refused with its line and the nearest right
name, before anything is run.
"""

from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from trainer.cli.main import app
from trainer.errors import BadPipeline, BadRecipe
from trainer.pipeline.commands import check_command
from trainer.pipeline.file import load_pipeline
from trainer.pipeline.graph import needs, order
from trainer.pipeline.run import plan

PIPELINES = sorted((Path(__file__).parents[2] / "recipes" / "pipelines").glob("*.yaml"))


def refused(text: str, *overrides: str) -> str:
    """The message and the exit code's kind with which a file is refused by whatever comes first."""
    Path("bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises((BadPipeline, BadRecipe)) as caught:
        read_and_check(overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def read_and_check(overrides: tuple[str, ...]) -> None:
    for step in plan(load_pipeline(Path("bad.yaml"), overrides)):
        check_command(step.stage, typer.main.get_command(app))


def two(first: str = "", second: str = "", more: str = "") -> str:
    """A pipeline of two stages, b after a, with lines put into each."""
    return (
        "name: two\nvalues: {size: 3}\nstages:\n  a:\n    command: nearfar data check"
        f" pairs.jsonl --rejected ${{bad}}\n    outputs: {{bad: bad.jsonl}}\n{first}  b:\n   "
        f" command: nearfar data check ${{a.bad}}\n{second}{more}"
    )


def test_good_pipeline_is_read(place: Path) -> None:
    Path("good.yaml").write_text(two(), encoding="utf-8")
    pipeline = load_pipeline(Path("good.yaml"), ["output=elsewhere", "values.size=4"])
    assert pipeline.folder == Path("elsewhere/two")
    assert pipeline.values == {"size": 4}
    assert pipeline.stages["a"].words == ["data", "check", "pairs.jsonl", "--rejected", "${bad}"]
    assert (needs(pipeline, "a"), needs(pipeline, "b"), order(pipeline)) == ([], ["a"], ["a", "b"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (two(first="    after: [b]\n"), "in a loop: a -> b -> a"),
        (two(more="  c:\n    command: nearfar recipe check ${c.folder}\n"), "in a loop: c -> c"),
        (
            two().replace("${a.bad}", "${A.bad}x"),
            "stage b: ${A.bad}: there is no stage A; there are a, b",
        ),
        (two(second="    after: [c]\n"), "stage b: after: there is no stage c"),
        (
            two().replace("${a.bad}", "${a.bat}"),
            "stage b: ${a.bat}: stage a has no output bat; did you mean bad?",
        ),
        (
            two().replace("${a.bad}", "${sise}"),
            "${sise} is neither an output of this stage nor in `values`; did you mean size?",
        ),
        (two().replace("${a.bad}", "${a.bad"), "has a ${ without a }"),
        (
            two(first="    comand: x\n"),
            "bad.yaml:7: stages.a.comand is not a key; did you mean stages.a.command?",
        ),
        (two() + "vallues: {}\n", "vallues is not a key; did you mean values?"),
        (two(first="    outputs: {x: y}\n"), "bad.yaml:7: stages.a.outputs: given twice"),
        (two(more="  c: {outputs: {x: y}}\n"), "bad.yaml:9: stages.c.command is missing"),
        (
            two(more="  c: {command: [nearfar]}\n"),
            "bad.yaml:9: stages.c.command: ['nearfar'] is not valid here",
        ),
        (
            two(more="  c: {command: fit x.yaml}\n"),
            "bad.yaml:9: stages.c.command: 'fit x.yaml' is not a command of nearfar",
        ),
        (two(more="  c: {command: 'nearfar recipe check \"x'}\n"), "has a quote that does not end"),
        (two(more="  c: {command: nearfar recipe show a.yaml > b}\n"), "> needs a shell"),
        (
            two(more="  c: {command: nearfar launch a.yaml --machine x}\n"),
            "`machine: FILE` beside it",
        ),
        (two(first="    machine: x.yaml\n"), "bad.yaml:7: stages.a.machine is for `nearfar fit`"),
        (
            two().replace("bad.jsonl", "../bad.jsonl"),
            "bad.yaml:6: stages.a.outputs.bad: ../bad.jsonl must be a path inside",
        ),
        (two().replace("bad.jsonl", "/bad.jsonl"), "/bad.jsonl must be a path inside"),
        (two().replace("bad.jsonl", "."), ". must be a path inside"),
        (
            two().replace("{bad: bad.jsonl}", "{bad: bad.jsonl, folder: x}"),
            "${folder} is already the stage's folder itself",
        ),
        (
            two().replace("{bad: bad.jsonl}", "{bad: bad.jsonl, size: x}"),
            "${size} is already values.size",
        ),
        (
            two(more="  'c d': {command: nearfar recipe check a.yaml}\n"),
            "cannot be a name; a name begins with a letter",
        ),
        (two(first="    reads: [nowhere.jsonl]\n"), "stage a: reads: there is no nowhere.jsonl"),
        (
            two(more="  c: {command: nearfar fit nowhere.yaml}\n"),
            "there is no file nowhere.yaml",
        ),
        (
            two(more="  c: {command: nearfar fit a.yaml optimization.epoch=2}\n"),
            "did you mean optimization.epochs?",
        ),
        (
            two(more="  c: {command: nearfar evalaute x}\n"),
            "stage c: there is no command `nearfar evalaute`; did you mean evaluate?",
        ),
        (
            two(more="  c: {command: nearfar data chek x}\n"),
            "there is no command `nearfar data chek`; did you mean check?",
        ),
        (
            two(more="  c: {command: nearfar data}\n"),
            "there is no command `nearfar data `; its commands are prepare, pairs, split, check",
        ),
        (
            two(more="  c: {command: nearfar index m c --ot x}\n"),
            "stage c: `nearfar index`: No such option: --ot",
        ),
        (
            two(more="  c: {command: nearfar index m}\n"),
            "stage c: `nearfar index`: Missing argument",
        ),
        (
            two(more="  c: {command: nearfar data check --help}\n"),
            "stage c: `nearfar data check --help` only shows help",
        ),
        (two(more="  c: {command: nearfar pipeline p.yaml}\n"), "a pipeline cannot be a stage"),
        ("name: x\nstages: {}\n", "bad.yaml:2: stages"),
        ("stages: {}\n", "2 problems in pipeline bad.yaml\n  bad.yaml: name is missing"),
        ("", "is not a mapping of keys"),
        (
            "name: x\nmodel: {}\n",
            "bad.yaml is a recipe, not a pipeline; `nearfar fit bad.yaml` runs it",
        ),
    ],
)
def test_bad_pipelines_are_refused_by_name(place: Path, text: str, said: str) -> None:
    assert said in refused(text)


def test_loops_of_any_length_are_shown(place: Path) -> None:
    ring = "".join(
        f"  s{n}:\n    command: nearfar recipe check ${{s{(n + 1) % 5}.folder}}\n" for n in range(5)
    )
    said = refused(f"name: ring\nstages:\n  free: {{command: nearfar recipe check a.yaml}}\n{ring}")
    loop = said.split("loop: ")[1].split(" (")[0].split(" -> ")
    assert loop[0] == loop[-1]
    assert sorted(loop[1:]) == [f"s{n}" for n in range(5)]
    assert all(int(later[1:]) == (int(earlier[1:]) + 1) % 5 for earlier, later in pairwise(loop)), (
        "each needs the next"
    )


@pytest.mark.parametrize(
    "override", ["size=4", "values.sise=4", "stages.a.command=x", "values.size"]
)
def test_unknown_overrides_are_refused(place: Path, override: str) -> None:
    assert "is none of name=..., output=..., values.size=..." in refused(two(), override)


def test_bad_pipeline_ends_with_2_and_runs_nothing(place: Path) -> None:
    Path("bad.yaml").write_text(two(first="    after: [b]\n"), encoding="utf-8")
    ended = CliRunner().invoke(app, ["pipeline", "bad.yaml"])
    assert isinstance(ended.exception, BadPipeline)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--dry-run", "--only", "look"],
        ["--only", "look", "--from", "look"],
        ["--print-commands", "--from", "look"],
    ],
)
def test_contradicting_options_are_refused(place: Path, options: list[str]) -> None:
    ended = CliRunner().invoke(app, ["pipeline", "p.yaml", *options])
    assert isinstance(ended.exception, BadPipeline)
    assert not Path("runs").exists()


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
class TestThoseWeShip:
    def test_pipeline_fits_the_command_line(
        self, path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(repository)
        steps = plan(load_pipeline(path))
        assert len(steps) >= 2
        for step in steps:
            check_command(step.stage, typer.main.get_command(app))

    def test_pipeline_has_a_header_and_its_name(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert f"#   nearfar pipeline recipes/pipelines/{path.name}\n" in text
        assert "\n# Hardware: " in text
        assert "\n# measured" in text
        assert load_pipeline(path).name == path.stem


def test_pipelines_exist() -> None:
    assert PIPELINES
