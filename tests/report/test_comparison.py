"""Runs side by side: copies of a real run, each with something changed."""

import json
import re
import shutil

import pytest
from typer.testing import CliRunner

from trainer.cli import main as command_line
from trainer.errors import BadFolder
from trainer.evaluation.significance import holm, paired_test
from trainer.report.comparison.page import write_comparison
from trainer.report.comparison.run_comparison import compare_runs
from trainer.report.read import read_run


@pytest.fixture
def copy(toy_run, tmp_path):
    """A function that copies the run under a name, with the nDCG@10 of its model per query."""

    def run(name, scores=None, **changes):
        folder = shutil.copytree(toy_run, tmp_path / name)
        content = json.loads((folder / "evaluation.json").read_text())
        if scores is not None:
            model = content["systems"][-1]
            model["metrics"]["ndcg@10"] = scores
            mean = sum(scores) / len(scores)
            model["summary"]["ndcg@10"] = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
        (folder / "evaluation.json").write_text(json.dumps(content | changes))
        return folder

    return run


LOW, MIDDLE, HIGH = [0.1] * 10, [0.5] * 5 + [0.6] * 5, [0.9] * 10


def test_settings_that_differ_are_the_only_ones_shown(copy):
    first, second = copy("first"), copy("second")
    recipe = second / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("learning_rate: 0.01", "learning_rate: 0.02"))
    comparison = compare_runs([first, second])
    assert comparison.settings == [("optimization.learning_rate", ["0.01", "0.02"])]
    assert comparison.warnings == []


def test_trackers_are_shown_as_one_types_them(copy):
    first, second = copy("first"), copy("second")
    recipe = second / "recipe.yaml"
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("trackers")]
    recipe.write_text("\n".join([*lines, "trackers: [{kind: wandb, group: search}]"]) + "\n")
    (name, values), *_ = compare_runs([first, second]).settings
    assert (name, values[0]) == ("trackers", "[]")
    assert "kind: wandb" in values[1]
    assert "null" not in values[1]
    assert '"' not in values[1]


def test_paired_tests_are_corrected_for_their_number(copy):
    runs = [copy("low", LOW), copy("middle", MIDDLE), copy("high", HIGH)]
    comparison = compare_runs(runs)
    values = [read_run(run).evaluation.systems[-1].metrics["ndcg@10"] for run in runs]
    pairs = [(0, 1), (0, 2), (1, 2)]
    tests = [paired_test(values[first], values[second]) for first, second in pairs]
    assert [test.test for test in comparison.tests] == tests
    assert [test.corrected_p_value for test in comparison.tests] == holm(
        [test.p_value for test in tests]
    )
    assert comparison.tests[1].test.difference == pytest.approx(0.8)
    assert comparison.headline == (
        "high has the highest test nDCG@10, 0.900, and is proven better than low and middle."
    )


def test_equal_runs_cannot_be_told_apart(copy):
    near = [*HIGH[:9], 0.8]
    assert compare_runs([copy("a", HIGH), copy("b", near)]).headline == (
        "a has the highest test nDCG@10, 0.900, but cannot be told apart from b."
    )


@pytest.mark.parametrize("change", ["queries", "documents", "judgements"])
def test_other_test_data_are_named_and_not_tested(copy, change):
    first, second, third = copy("first"), copy("second"), copy("third")
    path = third / "evaluation.json"
    content = json.loads(path.read_text())
    if change == "queries":
        content["queries"][content["query_ids"][0]] = "another question"
    elif change == "documents":
        content["documents"] += 1
    else:
        content["systems"][0]["metrics"]["ndcg@10"][0] += 0.25  # of BM25
    path.write_text(json.dumps(content))
    comparison = compare_runs([first, second, third])
    assert [(test.baseline, test.system) for test in comparison.tests] == [("first", "second")]
    (warning,) = comparison.warnings
    assert warning.startswith("third was measured on")
    assert "so no test compares them" in warning
    assert comparison.headline == "The runs were not all measured on the same test queries."


def test_old_run_shows_what_it_has(copy, tmp_path):
    first, old = copy("first"), tmp_path / "old"
    old.mkdir()
    (old / "recipe.yaml").write_text("name: old\na_key_of_another_version: 1\n")
    comparison = compare_runs([first, old])
    assert comparison.warnings == [
        "old has no environment.json, log.jsonl, status.json, evaluation.json, so it has gaps here",
        "the recipe of old cannot be read by this version; its settings are not compared",
    ]
    facts = dict(comparison.facts)
    assert facts["test nDCG@10"][1] == "–"
    assert facts["training pairs"] == ["49", "–"]
    assert write_comparison(comparison, tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("number", "problem"), [(1, "one run was given"), (2, "one run folder is twice here")]
)
def test_fewer_than_two_runs_are_refused(copy, number, problem):
    with pytest.raises(BadFolder, match=f"{problem}; give two or more"):
        compare_runs([copy("first")] * number)


def test_folder_without_a_run_is_refused(copy, tmp_path):
    with pytest.raises(BadFolder, match="not a run folder"):
        compare_runs([copy("first"), tmp_path])


def test_page_overlays_the_curves_and_escapes_names(copy, tmp_path):
    attack = "<img src=x onerror=alert(1)>"
    runs = [copy("plain", LOW), copy(attack, HIGH)]
    page = write_comparison(compare_runs(runs), tmp_path / "page.html").read_text()
    assert "<img" not in page
    assert "&lt;img src=x" in page
    loss = re.search(r'aria-label="Loss: .*?</svg>', page, re.DOTALL)[0]
    assert re.findall(r'class="line (\w+)"', loss) == ["run0", "run1"]
    assert not re.findall(r"https?:|src=\"|href=|url\(|@import", page)


def test_command_prints_the_comparison_and_writes_the_page(copy, tmp_path):
    words = ["compare", str(copy("low", LOW)), str(copy("high", HIGH))]
    plain = CliRunner().invoke(command_line.app, words)
    assert plain.exit_code == 0
    assert re.search(r"test nDCG@10 +0\.100 \[0\.090, 0\.110\] +0\.900", plain.output)
    assert "low to high: +0.800 nDCG@10" in plain.output
    assert not (tmp_path / "comparison.html").exists()
    written = CliRunner().invoke(command_line.app, [*words, "--html"])
    assert written.output.splitlines()[-1] == str(tmp_path / "comparison.html")
    page = tmp_path / "chosen.html"
    CliRunner().invoke(command_line.app, [*words, "-o", str(page)])
    assert "high has the highest test nDCG@10" in page.read_text()


def test_runs_of_one_name_are_told_apart_by_their_paths(copy, tmp_path):
    first = copy("run")
    (tmp_path / "other").mkdir()
    second = shutil.copytree(first, tmp_path / "other" / "run")
    assert [compared.name for compared in compare_runs([first, second]).runs] == [
        str(first),
        str(second),
    ]
