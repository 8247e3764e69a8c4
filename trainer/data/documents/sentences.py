"""Sentences of a text."""

import re

_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9À-ÞА-ЯΑ-Ω¿¡])|(?<=[。！？])\s*")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:e\.g|i\.e|etc|cf|vs|approx|no|fig|eq|sec|ch|vol|pp?|dr|mr|mrs|ms|prof|st|jr|sr"
    r"|et al|inc|ltd|co|corp|u\.s|[A-Za-z])\.$",
    re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of a text on one line. Joined by spaces, they are the text.

    >>> split_sentences("Stop it, e.g. by `az vm stop`. Then wait! See Fig. 2 (or ask).")
    ['Stop it, e.g. by `az vm stop`.', 'Then wait!', 'See Fig. 2 (or ask).']
    >>> split_sentences("It is by Lee et al. (2019).")
    ['It is by Lee et al. (2019).']
    """
    sentences: list[str] = []
    start = 0
    for end in _END.finditer(text):
        sentence = text[start : end.end()].strip()
        if sentence and not _ABBREVIATION.search(sentence):
            sentences.append(sentence)
            start = end.end()
    last = text[start:].strip()
    return [*sentences, last] if last else sentences
