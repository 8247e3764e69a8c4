"""The notebook's code cells run in a fresh process, on a tiny model and tiny data."""

import json
import os
import subprocess
import sys

import pytest

WORDS = ("disk", "storage", "account", "query", "database", "machine", "region", "western")

# What Jupyter does: all cells in one namespace, the value of a cell's last line is shown.
RUN_CELLS = """
import ast, json, sys
names = {}
for number, source in enumerate(json.load(sys.stdin)):
    *statements, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        statements.append(last)
    exec(compile(ast.Module(statements, []), f"cell {number}", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        html = getattr(value, "_repr_html_", lambda: "")()
        print(f"[{number}]", repr(value), html, sep="\\n")
"""


@pytest.fixture
def folder(tmp_path, toy_folder):
    """The user's folder: a data set in BEIR layout, as the notebook's, and a recipe."""
    texts = [f"{first} {second}" for first in WORDS for second in WORDS]
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    for name, prefix in (("corpus", "d"), ("queries", "q")):
        lines = [
            {"_id": f"{prefix}{number}", "text": f"{prefix} {text}", "title": ""}
            for number, text in enumerate(texts)
        ]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for split, numbers in {"train": range(40), "dev": range(40, 52), "test": range(52, 64)}.items():
        rows = ["query-id\tcorpus-id\tscore", *(f"q{at}\td{at}\t1" for at in numbers)]
        (data / f"qrels/{split}.tsv").write_text("\n".join(rows) + "\n")
    recipe = {
        "name": "toy",
        "model": {"backbone": str(toy_folder("bert"))},
        "data": {"train": "data"},
        "optimization": {"batch_size": 8},
        "machine": {"accelerator": "cpu", "precision": "fp32"},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return tmp_path


def test_cells_run_and_show_their_stored_output(folder, repository):
    notebook = json.loads((repository / "docs/notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells), "kept without outputs, which would go stale"
    parameters, *rest = cells
    assert parameters["metadata"]["tags"] == ["parameters"]
    own = 'recipe, overrides, data = "recipe.yaml", {"optimization.epochs": 2}, "data"'
    sources = ["".join(parameters["source"]), own, *("".join(cell["source"]) for cell in rest)]
    ended = subprocess.run(
        [sys.executable, "-c", RUN_CELLS],
        input=json.dumps(sources),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr
    for text in ("model: runs/toy/model", "BM25", "<table>", "<caption>", "negatives per query"):
        assert text in ended.stdout
