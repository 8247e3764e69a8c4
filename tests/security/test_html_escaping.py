"""S11: whatever stands in queries, ids, names, errors and logs, the report is text, runs no script
but its own and asks for nothing.
"""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trainer.report.run_page import write_report
from trainer.runtime.run_folder import RunFolder

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</title></style></pre></svg><script>alert(1)</script>",
    "<!-- --><iframe src=javascript:alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\x1b]0;owned\x07\x1b[2J\x00",
    "\u202egpj.exe\u2066",
    "\ud800 lone surrogate",
    "<style>@import url(http://127.0.0.1/x)</style>",
]
ELEMENTS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "header",
    "section",
    "footer",
    "p",
    "h1",
    "h2",
    "h3",
    "b",
    "i",
    "span",
    "small",
    "bdi",
    "code",
    "div",
    "ul",
    "ol",
    "li",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "figure",
    "figcaption",
    "pre",
    "details",
    "summary",
    "svg",
    "path",
    "line",
    "circle",
    "rect",
    "text",
    "script",
    "input",
    "output",
    "button",
}
ATTRIBUTES = {
    "lang",
    "charset",
    "name",
    "content",
    "http-equiv",
    "class",
    "style",
    "scope",
    "data-name",
    "id",
    "hidden",
    "type",
    "placeholder",
    "autocomplete",
    "open",
    "role",
    "aria-label",
    "aria-hidden",
    "viewbox",
    "d",
    "x",
    "y",
    "x1",
    "x2",
    "y1",
    "y2",
    "cx",
    "cy",
    "r",
    "rx",
    "width",
    "height",
    "text-anchor",
}


SCRIPT = (Path(__file__).parents[2] / "trainer/report/templates/queries.js").read_text()


class Structure(HTMLParser):
    """Elements and attributes of a page, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.styles: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.comments: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.styles += [value for name, value in attributes if name == "style"]

    def handle_data(self, data):
        self.text.append(data)
        if self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def hostile_run(folder: Path, attack: str) -> Path:
    """A finished run in which every string that a stranger could choose is the attack."""
    recipe = (
        f"name: x\nmodel:\n  backbone: {attack}\ndata:\n  train: {attack}\n# {attack}\n{attack}:"
        f" {attack}\n"
    )
    run = RunFolder.create(
        folder, recipe.encode("utf-8", "replace").decode(), ["nearfar", "fit"], {}
    )
    environment = json.loads(run.environment_path.read_text())
    run.environment_path.write_text(
        json.dumps(environment | {"command": attack, attack: {attack: [attack]}})
    )
    run.log_path.write_text(
        json.dumps(
            {"step": 0, "time_seconds": 1, "train/loss": 1.0, attack: 1.0, "non_finite": [attack]}
        )
        + json.dumps({"step": attack, "train/loss": attack, "time_seconds": attack})
        + "\n"
        + json.dumps(
            {
                "step": 0,
                "train/loss": attack,
                "train/gradient_norm": attack,
                "validation/ndcg@10": 0.5,
            }
        )
        + "\n"
    )

    def system(name: str, value: float) -> dict[str, object]:
        summary = {
            metric: {"mean": value, "low": value, "high": value} for metric in ("ndcg@10", attack)
        }
        return {
            "name": name,
            "metrics": {"ndcg@10": [value, value], "mrr@10": [value, value]},
            "summary": summary,
            "top": {attack: [[attack, 1.0]]},
        }

    comparison = {
        "before": attack + "1",
        "after": attack + "2",
        "metric": attack,
        "difference": 0.5,
        "low": 0.4,
        "high": 0.6,
        "p_value": 0.01,
    }
    comparison |= {"better": 2, "equal": 0, "worse": 0}
    evaluation = {
        "format": 1,
        "set": attack,
        "split": attack,
        "documents": 2,
        "query_ids": [attack, attack + "x"],
        "comparisons": [comparison],
    }
    evaluation |= {
        "systems": [system(attack + "1", 0.5), system(attack + "2", 1.0)],
        "queries": {attack: attack},
        "texts": {attack: attack},
    }
    run.evaluation_path.write_text(json.dumps(evaluation))
    length = {"texts": 2, "cut_texts": 1, "limit_tokens": 8, "mean_tokens": 4.0, "bin_tokens": 4}
    facts = {
        "training": {"pairs": 2, "queries": 2, "documents": 2, "duplicate_pairs": 0},
        "validation": {"queries": 1, "documents": 2},
        "test": None,
        "leaks": [{"split": attack, "kind": attack, "count": 1}],
        "lengths": {attack: {**length, "bins": [1]}},
        "remarks": [attack],
    }
    (run.path / "data.json").write_text(json.dumps(facts))
    run.model.mkdir()
    (run.model / "README.md").write_text(
        f"`nearfar search` {attack}\n```python\n{attack}\n```\n".encode("utf-8", "replace").decode()
    )
    run.finish("failed", error=attack.encode("utf-8", "replace").decode())
    return write_report(run.path)


@pytest.mark.parametrize("attack", ATTACKS)
def test_s11_hostile_run_is_shown_as_text(tmp_path, attack):
    page = hostile_run(tmp_path / "run", attack).read_text(encoding="utf-8")
    structure = Structure(page)
    assert structure.elements <= ELEMENTS
    assert structure.attributes <= ATTRIBUTES
    assert all(style.startswith("flex:") and style[5:].isdigit() for style in structure.styles)
    assert structure.comments == []
    data, script = structure.scripts
    assert json.loads(data).keys() == {"systems", "documents", "rows"}
    assert script == SCRIPT
    assert not {
        character
        for character in page
        if (ord(character) < 0x20 and character != "\n") or character in "\x7f\u202e\u2066"
    }
    assert "Query by query" in page, "the hostile strings never reached the page"


def test_s11_attack_can_be_read(tmp_path):
    text = "".join(Structure(hostile_run(tmp_path / "run", ATTACKS[0]).read_text()).text)
    assert text.count(ATTACKS[0]) >= 10


def test_s11_name_of_a_folder_is_text(tmp_path):
    page = hostile_run(tmp_path / "<img src=x onerror=alert(1)>", "plain").read_text()
    assert "img" not in Structure(page).elements
    assert "&lt;img src=x" in page


def test_s11_policy_allows_our_script_alone_and_no_request(tmp_path):
    page = hostile_run(tmp_path / "run", "plain").read_text()
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    images, styles = "img-src data:", "style-src 'unsafe-inline'"
    assert f"default-src 'none'; {images}; {styles}; script-src 'sha256-{digest}';" in policy
    assert not re.findall(r"https?:|src=|href=|url\(|@import|<link", page)
