"""Splits of pairs: nothing leaks, nothing is lost, and only the texts decide."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.near_duplicates import near_identical_pairs, normal_form, word_set
from trainer.data.prepare.split import SplitRules, split_pairs
from trainer.data.readers.read import read_rows
from trainer.data.retrieval_set import read_retrieval_set
from trainer.data.summary.limitations import limitation_advice
from trainer.errors import BadData, BadRecipe

WORDS = st.sampled_from(["a", "the", "disk", "vault", "key", "queue", "zone", "image", "Disk!"])
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)


@given(st.lists(TEXTS, max_size=20), st.sampled_from([0.5, 0.75, 0.9]))
def test_pairs_of_near_identical_texts_connect_all_of_them(
    texts: list[str], overlap: float
) -> None:
    def reached(pairs: list[tuple[int, int]]) -> list[int]:
        """The lowest text that each text is connected with."""
        lowest = list(range(len(texts)))
        for _ in texts:
            for pair in pairs:
                for one in pair:
                    lowest[one] = min(lowest[number] for number in pair)
        return lowest

    expected = [
        (one, other)
        for one, other in combinations(range(len(texts)), 2)
        for first, second in [(word_set(texts[one]), word_set(texts[other]))]
        if len(first & second) >= overlap * len(first | second) - 1e-9
    ]
    pairs = near_identical_pairs(texts, overlap)
    assert set(pairs) <= set(expected)
    assert reached(pairs) == reached(expected)


def rows_of(folder: Path, split: str) -> list[tuple[str, str]]:
    if not (folder / f"qrels/{split}.tsv").is_file():
        return []
    return [(row.query, row.positive) for row in read_rows(str(folder), split=split)]


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    path.write_text("query,positive\n" + "".join(f"{query},{text}\n" for query, text in pairs))
    return str(path)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(TEXTS, st.integers(0, 30)), min_size=4, max_size=40),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_splits_have_no_leaks_and_do_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[tuple[str, int]],
    shared_documents: bool,
    random: object,
) -> None:
    folder = tmp_path_factory.mktemp("split")
    texts = [(query, f"Document {number}{'.' * (number % 2)}") for query, number in pairs]
    rules = SplitRules(0.2, 0.2, shared_documents)
    try:
        split_pairs(write(folder / "pairs.csv", texts), folder / "one", rules)
    except BadData:  # one group
        assert not (folder / "one").exists()
        return
    splits = {name: rows_of(folder / "one", name) for name in ("train", "dev", "test")}
    assert Counter(pair for rows in splits.values() for pair in rows) == Counter(set(texts))
    for first, second in combinations(splits.values(), 2):
        queries = [query for query, _ in first]
        linked = near_identical_pairs([*queries, *(query for query, _ in second)])
        assert all((one < len(queries)) == (other < len(queries)) for one, other in linked)
        if not shared_documents:
            forms = [{normal_form(text) for _, text in rows} for rows in (first, second)]
            assert not forms[0] & forms[1]
    random.shuffle(texts)
    split_pairs(write(folder / "pairs.csv", texts), folder / "other", rules)
    for name, rows in splits.items():
        assert sorted(rows_of(folder / "other", name)) == sorted(rows)


def test_large_groups_are_in_no_split_more_often_than_small_ones(tmp_path: Path) -> None:
    """Half of the documents answer one query, half of them answer nine."""
    pairs = [
        (f"{kind} {document} {number}", f"{kind} {document}")
        for document in range(300)
        for kind, queries in (("small", 1), ("large", 9))
        for number in range(queries)
    ]
    result = split_pairs(write(tmp_path / "pairs.csv", pairs), tmp_path / "mine")
    for queries in result.splits.values():
        large = sum(query.startswith("large") for query in queries)
        assert 0.85 < large / len(queries) < 0.95, "nine tenths of all queries"


def test_reversed_pairs_are_in_one_split(tmp_path: Path) -> None:
    """As among duplicate questions, of which each is the answer of the other."""
    pairs = [(f"left {number}", f"right {number}") for number in range(60)]
    pairs += [(right, left) for left, right in pairs]
    result = split_pairs(write(tmp_path / "pairs.csv", pairs), tmp_path / "mine")
    assert all(result.split_of[query] == result.split_of[text] for query, text in pairs)
    assert len(set(result.split_of.values())) == 3


def test_folder_without_a_corpus_marks_its_figures(tmp_path: Path) -> None:
    pairs = [(f"question {number}", f"answer {number}") for number in range(30)]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"text {number}\n" for number in range(99)), encoding="utf-8")
    source = write(tmp_path / "pairs.csv", pairs)
    split_pairs(source, tmp_path / "alone")
    split_pairs(source, tmp_path / "whole", corpus=str(corpus))
    alone, whole = (read_retrieval_set(str(tmp_path / name)) for name in ("alone", "whole"))
    assert alone.limitation.startswith("searched among the 30 documents of the pairs alone")
    assert (whole.limitation, len(whole.documents)) == ("", 129)
    advice = limitation_advice(alone.limitation, "--corpus")
    assert "nearfar data split PAIRS --corpus FILE" in advice, "the folder takes no other corpus"


@pytest.mark.parametrize(("dev", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, 1.0)])
def test_shares_that_leave_nothing_are_refused(dev: float, test: float) -> None:
    with pytest.raises(BadRecipe, match="leave nothing for training"):
        SplitRules(dev, test)
