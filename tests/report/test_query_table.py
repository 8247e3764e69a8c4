"""The table of all queries: its data, and its script in a browser where there is one."""

import json
import math
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest

from trainer.evaluation.evaluation_file import write_evaluation
from trainer.evaluation.results import Evaluation, SystemResult
from trainer.report.query_table import query_table
from trainer.report.run_page import write_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def evaluation(queries: int) -> Evaluation:
    """BM25 finds nothing, the base model every document at rank 2, and the tuned one at 1 or 3."""
    ids = tuple(f"q{number}" for number in range(queries))
    ranks = {"BM25": [None], "base": [2], "fine-tuned": [1, 3]}
    systems = []
    for name, pattern in ranks.items():
        places = [pattern[number % len(pattern)] for number in range(queries)]
        ndcg = [1 / math.log2(place + 1) if place else 0.0 for place in places]
        metrics = {
            "ndcg@10": np.array(ndcg),
            "mrr@10": np.array([1 / place if place else 0.0 for place in places]),
        }
        top = {
            query: [(f"d{number}" if rank == place else f"other{rank}", 1.0) for rank in (1, 2, 3)]
            for number, (query, place) in enumerate(zip(ids, places, strict=True))
        }
        systems.append(SystemResult(name, ids, metrics, top))
    texts = {f"d{number}": f"the answer number {number}" for number in range(queries)}
    questions = {query: f"question number {query} " + "word " * 12 for query in ids}
    return Evaluation("a set", "test", queries, tuple(systems), (), questions, texts)


def test_table_has_each_query_with_what_was_found():
    content = json.loads(query_table(evaluation(4)).json)
    assert content["systems"] == ["BM25", "base", "fine-tuned"]
    question, found, is_right, relevant, scores = content["rows"][0]
    assert question.startswith("question number q0 word")
    assert content["documents"][found] == content["documents"][relevant] == "the answer number 0"
    assert (is_right, scores) == (1, [0, 631, 1000])
    _, found, is_right, relevant, scores = content["rows"][1]
    assert content["documents"][found] == "other1"
    assert content["documents"][relevant] == "the answer number 1"
    assert (is_right, scores) == (0, [0, 631, 500])


def test_table_of_many_queries_is_small():
    assert len(query_table(evaluation(2_000)).json) < 400_000


def test_table_needs_two_systems():
    single = evaluation(4)
    assert query_table(Evaluation("a", "b", 1, single.systems[:1], (), {}, {})) is None


@pytest.mark.skipif(BROWSER is None, reason="there is no browser on this machine")
def test_browser_sorts_and_searches_the_table(tmp_path):
    """The script of the page runs under its policy; a second one plays the reader."""
    (tmp_path / "recipe.yaml").write_text("name: a-run\n")
    write_evaluation(evaluation(400), tmp_path / "evaluation.json")
    page = write_report(tmp_path)
    assert _rows(page)[0] == "✗ other1 question number q1 −0.131"
    reader = (
        'const all = document.getElementById("all-queries");'
        'const box = all.querySelector("input"); box.value = "ANSWER Number 39";'
        'box.dispatchEvent(new Event("input"));'
        'all.querySelectorAll("th button")[5].click();'
    )
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    page.write_text(html.replace("</body>", f"<script>{reader}</script></body>"))
    rows = _rows(page)
    assert len(rows) == 14, "39, 139, 239, 339, and 390 to 399"
    assert rows[0] == "✓ the answer number 390 question number q390 +0.369"


def _rows(page) -> list[str]:
    """What was found first, the query and the change of each row that the browser shows."""
    dump = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    body = re.search(r'id="all-queries".*?<tbody>(.*?)</tbody>', dump, re.DOTALL)[1]
    return [
        " ".join(
            unescape(re.sub(r"<[^>]*>", "", part)).strip()
            for part in (
                re.search(r"<td><b.*?</bdi>", row)[0],
                re.search(r"question number q\d+", row)[0],
                re.search(r"<td[^>]*data-name=\"change\"[^>]*>[^<]*", row)[0],
            )
        )
        for row in body.split("</tr>")[:-1]
    ]
