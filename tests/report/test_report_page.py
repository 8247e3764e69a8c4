"""The report of whole, stopped, killed and half-written runs."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from trainer.data.retrieval_set import RetrievalSet
from trainer.errors import BadFolder
from trainer.evaluation.evaluation_file import read_evaluation, write_evaluation
from trainer.evaluation.results import SystemResult, compare
from trainer.report.charts.comparison_charts import change_histogram
from trainer.report.charts.line_chart import Line, line_chart
from trainer.report.query_changes import query_changes
from trainer.report.read import read_run
from trainer.report.run_page import write_report
from trainer.report.text import probability
from trainer.runtime.run_folder import RunFolder

RECIPE = "name: a-run\nmodel:\n  backbone: a-backbone\ndata:\n  train: pairs.jsonl\n"
QUERIES = tuple(f"q{number}" for number in range(40))


SET = RetrievalSet(
    name="a-set test",
    query_ids=QUERIES,
    queries=tuple(f"what is {query}?" for query in QUERIES),
    document_ids=("right", "wrong"),
    documents=("right text", "wrong text"),
    qrels={query: {"right": 1} for query in QUERIES},
)


def system(name: str, ranks: list[int | None]) -> SystemResult:
    """A system that finds each query's one right document at the given rank."""
    values = {
        "ndcg@10": np.array([1 / math.log2(rank + 1) if rank else 0.0 for rank in ranks]),
        "mrr@10": np.array([1 / rank if rank else 0.0 for rank in ranks]),
    }
    top = {
        query: [
            ("right" if place == rank else f"wrong-{place}", 1.0 - place / 10)
            for place in range(1, 11)
        ]
        for query, rank in zip(QUERIES, ranks, strict=True)
    }
    return SystemResult(name, QUERIES, values, top)


def add_log(run: RunFolder) -> None:
    with run.log_path.open("w") as log:
        for step in range(30):
            log.write(
                json.dumps(
                    {
                        "step": step,
                        "time_seconds": step / 2,
                        "train/loss": 2.0 / (step + 1),
                        "train/learning_rate": 1e-3,
                    }
                )
                + "\n"
            )
            if step % 10 == 9:
                log.write(
                    json.dumps(
                        {
                            "step": step,
                            "time_seconds": step / 2,
                            "validation/ndcg@10": 0.5 + step / 100,
                        }
                    )
                    + "\n"
                )


def add_evaluation(
    run: RunFolder,
    before: list[int | None],
    after: list[int | None],
    bm25: list[int | None] | None = None,
    leaked: int = 0,
) -> None:
    ranks_by_name = {"BM25": bm25 or before[::-1], "base": before, "fine-tuned": after}
    systems = [system(name, ranks) for name, ranks in ranks_by_name.items()]
    write_evaluation(compare(SET, "test", systems, leaked_queries=leaked), run.evaluation_path)


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.create(tmp_path / "a-run", RECIPE, ["nearfar", "fit"], {"rows": 3})
    add_log(folder)
    return folder


def text_of(page: Path) -> str:
    """What a reader sees, in one line."""
    pieces: list[str] = []

    class Reader(HTMLParser):
        skip = False

        def handle_starttag(self, tag, attributes):
            self.skip = tag in ("style", "script")

        def handle_data(self, data):
            if not self.skip:
                pieces.append(data)

    Reader().feed(page.read_text())
    return " ".join(" ".join(pieces).split())


def test_page_shows_the_corrected_p_values_of_the_terminal(run):
    after = [1] * 22 + [3] * 18
    add_evaluation(run, [1] * 20 + [3] * 20, after, bm25=[1] * 16 + [3] * 24)
    run.finish("done")
    text = text_of(write_report(run.path))
    comparisons = read_evaluation(run.evaluation_path).comparisons
    assert any(test.corrected_p_value > 1.5 * test.test.p_value for test in comparisons)
    for test in comparisons:
        line = f"test {probability(test.corrected_p_value)} after Holm's correction for 2 tests"
        assert line in text


def test_page_shows_gain_significance_and_queries(run):
    ranks = [2] * 20 + [None] * 15 + [1] * 5, [1] * 20 + [3] * 15 + [4] * 5
    add_evaluation(run, *ranks, bm25=[None] * 40)
    run.finish("done")
    text = text_of(write_report(run.path))
    before, after = (20 / math.log2(3) + 5) / 40, (20 + 15 / 2 + 5 / math.log2(5)) / 40
    assert (
        f"nDCG@10 rose from {before:.3f} (base) to {after:.3f} (+{after - before:.3f}, 95 %"
        " interval +"
    ) in text
    assert "p < 0.001) on 40 test queries that training never saw." in text
    assert "40 test queries of a-set, each searched among 2 documents" in text
    assert "35 better 0 equal 5 worse" in text
    assert "what is q20? right text first before: wrong-1 10+ → 3 +0.50" in text
    assert "what is q35? right text first now: wrong-1 1 → 4 −0.57" in text
    assert "fine-tuned against BM25" in text
    assert "Gained: the 8 largest of 35" in text
    assert "30 steps in 14 s" in text


def test_every_table_fits_a_narrow_screen(run):
    """Each is shown row by row on a phone, or scrolls within its card."""
    add_evaluation(run, [2] * 20 + [1] * 20, [1] * 20 + [3] * 20)
    page = write_report(run.path).read_text()
    tables = re.findall(r"(<div[^>]*>)?(<h3>[^<]*</h3>)?\s*<table([^>]*)>", page)
    assert len(tables) == 6
    assert all("stacked" in table or "scroll" in card for card, _, table in tables)
    cells = re.findall(r'<td class="[^"]*number[^"]*"([^>]*)>', page)
    assert len(cells) > 10
    assert all("data-name" in cell for cell in cells), "a number without a heading on a phone"


def test_insignificant_difference_is_not_called_a_gain(run):
    add_evaluation(run, [1, 2] * 20, [2, 1] * 19 + [1, 1], bm25=[None] * 40)
    run.finish("done")
    assert "No proven gain: nDCG@10 went from" in text_of(write_report(run.path))


def test_loss_is_called_a_loss(run):
    add_evaluation(run, [1] * 40, [3] * 40, bm25=[None] * 40)
    run.finish("done")
    text = text_of(write_report(run.path))
    assert "Training made the model worse: nDCG@10 fell from 1.000 (base) to 0.500 (−0.500" in text
    assert "Gained: none" in text


def test_trained_test_queries_are_not_called_unseen(run):
    add_evaluation(run, [2] * 40, [1] * 40, leaked=3)
    run.finish("done")
    text = text_of(write_report(run.path))
    assert "This proves nothing: 3 of them were training queries too." in text
    assert "Next: take the test queries out of data.train" in text
    assert "never saw" not in text


def test_gain_that_is_behind_bm25_is_no_success(run):
    add_evaluation(run, [8] * 40, [4] * 40, bm25=[1] * 40)
    run.finish("done")
    page = write_report(run.path)
    assert "Not better than BM25, which needs no training: nDCG@10 0.431 (0.315 before" in text_of(
        page
    )
    assert "BM25 has 1.000" in text_of(page)
    assert "Next: search with BM25 until the model is ahead of it" in text_of(page)
    assert 'class="card verdict caution"' in page.read_text()


def test_base_model_that_won_is_the_verdict_without_test_queries_too(run):
    run.finish("done", selection={"base_score": 0.886, "best_score": 0.845, "best_step": 12})
    text = text_of(write_report(run.path))
    assert "Training did not help: the best validation nDCG@10 was 0.845 (step 12)" in text


def test_changed_settings_are_shown_and_the_rest_is_folded(run):
    run.recipe_path.write_text(RECIPE + "optimization:\n  learning_rate: 3.0e-3\nseed: 13\n")
    page = write_report(run.path)
    text = text_of(page)
    assert "the default model.backbone a-backbone data.train pairs.jsonl" in text
    assert "optimization.learning_rate 0.003 The whole recipe" in text
    assert '<details class="card"><summary>The whole recipe' in page.read_text()


def test_recipe_of_another_version_is_shown_as_a_whole(run):
    run.recipe_path.write_text(RECIPE + "a_key_of_the_future: 3\n")
    page = write_report(run.path)
    assert "not the default" not in text_of(page)
    assert '<details class="card" open><summary>Recipe' in page.read_text()


def test_usage_equals_that_of_the_model_card(run):
    run.model.mkdir()
    (run.model / "README.md").write_text(
        "`nearfar search --rerank` uses it.\n"
        '```python\nmodel = CrossEncoder("path/to/this/folder")\n```\n```json\n{}\n```\n'
    )
    text = text_of(write_report(run.path))
    assert f'nearfar search idx "a question" --rerank {run.model}' in text
    assert f'model = CrossEncoder("{run.model}")' in text
    assert "nearfar encode" not in text


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ("stopped", "This run was stopped before its end"),
        ("failed", "This run failed. ValueError: odd"),
        ("done", "This run has no evaluation on test queries"),
    ],
)
def test_page_without_an_evaluation_shows_the_curves(run, status, sentence):
    run.finish(status, **({"error": "ValueError: odd"} if status == "failed" else {}))
    page = write_report(run.path)
    assert sentence in text_of(page)
    assert 'aria-label="Training loss: from 2 at step 1' in page.read_text()
    assert "best 0.790" in page.read_text()


def test_negatives_mined_between_steps_are_shown(run):
    assert "Negatives mined during training" not in text_of(write_report(run.path))
    numbers = {
        "queries": 4352,
        "negatives": 8700,
        "queries_with_fewer": 4,
        "suspected_false_negatives": 517,
        "seconds": 81.4,
    }
    with run.log_path.open("a") as log:
        for step in (0, 20):
            log.write(
                json.dumps(
                    {"step": step, "time_seconds": step}
                    | {f"refresh/{name}": value + step for name, value in numbers.items()}
                )
                + "\n"
            )
    page = text_of(write_report(run.path))
    assert "at the beginning 4,352 8,700 4 517 81 after 20 steps 4,372 8,720 24 537 101" in page
    with run.log_path.open("a") as log:
        log.write('{"step": 25, "refresh/queries": 5, "refresh/seconds": 1e999}\n')
    assert "after 25 steps 5 0 0 0 0" in text_of(write_report(run.path))


def test_running_and_killed_runs_are_distinguished(run):
    assert "in progress" in text_of(write_report(run.path))
    run.finish("done")
    (run.path / "status.json").unlink()
    assert "killed before its end" in text_of(write_report(run.path))


def test_run_killed_before_its_first_step_is_shown(tmp_path):
    RunFolder.create(tmp_path / "a-run", RECIPE, [], {}).finish("failed", error="NonFinite: nan")
    assert "No step was logged" in text_of(write_report(tmp_path / "a-run"))


def test_non_finite_numbers_are_gaps_and_named(run):
    with run.log_path.open("a") as log:
        log.write(
            '{"step": 30, "time_seconds": 16, "train/loss": null, "non_finite": ["train/loss"]}\n'
        )
    run.finish("failed", error="NonFinite: the loss")
    page = write_report(run.path)
    assert "Values that are not finite: train/loss at step 31, 1 in all" in text_of(page)
    assert "nan" not in re.sub(
        r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL
    ).lower().replace("nonfinite", "")


def test_ranks_are_computed_from_the_reciprocal_rank(run):
    add_evaluation(run, [None, *[7] * 39], [10, *[7] * 39])
    first, second, *_ = query_changes(read_run(run.path).evaluation)
    assert (first.rank_before, first.rank_after, first.document, first.query) == (
        None,
        10,
        "right text",
        "what is q0?",
    )
    assert (second.rank_before, second.rank_after, second.difference) == (7, 7, 0.0)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"systems": []}', '{"systems": [{"name": "x", "metrics": {"ndcg@10": [1]}}]}'],
)
def test_damaged_evaluation_is_named(run, content):
    run.evaluation_path.write_text(content)
    with pytest.raises(BadFolder, match=r"evaluation\.json.*(remove it)"):
        write_report(run.path)


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(BadFolder, match=r"not a run folder.*nearfar fit"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_long_run_makes_a_small_page(tmp_path):
    steps = list(range(20_000))
    chart = line_chart("loss", [Line(steps, [math.sin(step) for step in steps])])
    assert len(chart) < 20_000


def test_charts_without_values_are_empty():
    assert line_chart("loss", [Line([1, 2], [None, None])]) == ""
    assert change_histogram("change", [0.0, 0.0]) == ""


def test_difference_is_counted_in_one_bar():
    chart = change_histogram("change", [1.0, 0.95, 0.1, 0.05, -0.05, -1.0, 0.0])
    bars = re.findall(r"<title>(\d+) queries changed by (\S+) to (\S+)</title>", chart)
    wide, narrow = bars[:4], bars[4:]
    assert wide == narrow
    assert wide == [
        ("1", "−0.9", "−1.0"),
        ("1", "−0.0", "−0.1"),
        ("2", "+0.0", "+0.1"),
        ("2", "+0.9", "+1.0"),
    ]


def test_report_needs_no_torch(run):
    """`nearfar report` answers at once, also on a machine without the training libraries."""
    run.finish("done")
    program = (
        "import sys; from trainer.report.run_page import write_report; from pathlib import Path;"
        " write_report(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(run.path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert result.stdout.strip() == "False", result.stderr
