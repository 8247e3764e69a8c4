"""Exact match and token F1 are those of SQuAD's evaluation, which is written out here again."""

import re
import string
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.rag.squad import answer_form, exact_match, has_answer, token_f1

TEXTS = st.lists(
    st.sampled_from(["a", "The", "an", "U.S.", "1973", "(oil)", "crisis,", "the", "é", "-", "  "]),
    max_size=6,
).map(" ".join)


def official_form(text: str) -> str:
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(prediction: str, answer: str) -> float:
    predicted, expected = official_form(prediction).split(), official_form(answer).split()
    common = sum((Counter(predicted) & Counter(expected)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(expected)
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_measures_are_equal_to_the_official_formula(prediction: str, answers: list[str]) -> None:
    assert answer_form(prediction) == official_form(prediction)
    expected = max(float(official_form(prediction) == official_form(item)) for item in answers)
    assert exact_match(prediction, answers) == expected
    best_f1 = max(official_f1(prediction, item) for item in answers)
    assert abs(token_f1(prediction, answers) - best_f1) < 1e-12


def test_answer_is_found_as_whole_words_only() -> None:
    passage = answer_form("The embargo of 1973 hit the U.S. (and Japan).")
    assert has_answer(passage, ["nothing", "us and Japan"])
    assert not has_answer(passage, ["19", "apan", "the", ""])
