"""Exact match and token F1 of answers, as SQuAD defines them (Rajpurkar et al. 2016)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_form(text: str) -> str:
    """Returns the text in lower case, without ASCII punctuation, articles and extra white space.

    >>> answer_form(" The U.S., in a  nutshell")
    'us in nutshell'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1 if the prediction is one of the answers in `answer_form`, else 0."""
    return float(answer_form(prediction) in map(answer_form, answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the best F1 of the words of the prediction and of an answer, in `answer_form`.

    F1 = 2 * common / (words of the prediction + words of the answer), and 0 without common words.

    >>> round(token_f1("in the year 1973", ["1973", "October 1973"]), 3)
    0.5
    """
    return max(_f1(answer_form(prediction), answer_form(answer)) for answer in answers)


def _f1(prediction: str, answer: str) -> float:
    predicted_words, answer_words = prediction.split(), answer.split()
    common = (Counter(predicted_words) & Counter(answer_words)).total()
    return 2 * common / (len(predicted_words) + len(answer_words)) if common else 0.0


def has_answer(passage_form: str, answers: Sequence[str]) -> bool:
    """Returns whether a passage, in `answer_form`, contains an answer as whole words.

    >>> has_answer(answer_form("It began in October 1973."), ["october, 1973"])
    True
    """
    forms = filter(None, map(answer_form, answers))
    return any(f" {form} " in f" {passage_form} " for form in forms)
