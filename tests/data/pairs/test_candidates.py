"""Which queries a passage gives, and which are set aside."""

from collections import Counter

import pytest

from trainer.data.documents.document import (
    DocumentSection,
    KnownPair,
    Paragraph,
    SourceDocument,
)
from trainer.data.pairs.candidates import KINDS, Candidate, find_candidates
from trainer.data.pairs.passages import Passage, split_documents, without_near_duplicates

FILLER = "Some words that stand around here."


def passages_of(*sections: tuple[tuple[str, ...], str], max_words: int = 100) -> list[Passage]:
    return split_documents(
        (
            SourceDocument(f"d{number}", [DocumentSection(headings, [Paragraph(text)])])
            for number, (headings, text) in enumerate(sections)
        ),
        max_words,
    )


def candidates_of(
    passages: list[Passage], *kinds: str, questions: dict[str, list[str]] | None = None
) -> tuple[list[Candidate], Counter[str]]:
    return find_candidates(passages, kinds, questions or {})


def queries_of(passages: list[Passage], *kinds: str) -> list[str]:
    return [candidate.query for candidate in candidates_of(passages, *kinds)[0]]


def test_heading_is_the_shortest_end_of_its_path_that_is_unique() -> None:
    passages = passages_of(
        (("Disks", "Use"), f"One. {FILLER}"),
        (("Keys", "Use"), f"Two. {FILLER}"),
        (("Keys", "Rotate a key"), f"Three. {FILLER}"),
        (("Same title",), f"Four. {FILLER}"),
        (("Same title",), f"Five. {FILLER}"),
    )
    candidates, reasons = candidates_of(passages, "heading")
    assert [(item.query, item.headings) for item in candidates] == [
        ("Disks: Use", 2),
        ("Keys: Use", 2),
        ("Rotate a key", 1),
    ]
    assert reasons == {"headings that are too short, too long, or of several sections": 2}


def test_sentence_is_chosen_once_per_passage_and_never_a_repeated_one() -> None:
    passages = passages_of(
        ((), f"Values come from the portal. Only alpha explains this subject. {FILLER}"),
        ((), f"Values come from the portal. Only beta explains this matter. {FILLER}"),
        ((), "Values come from the portal. One short."),
    )
    candidates, reasons = candidates_of(passages, "sentence")
    assert [item.query for item in candidates] == [
        "Only alpha explains this subject.",
        "Only beta explains this matter.",
    ]
    text = candidates[0].passage.text_without({candidates[0].query})
    assert text == f"Values come from the portal. {FILLER}"
    assert reasons == {"passages without a sentence that can be taken out": 1}


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("A managed disk is a block of storage.", "managed disk"),
        ("The LUN (number) is the place of a disk.", "LUN"),
        ("SKU stands for stock keeping unit, it says.", "SKU"),
        ("This command is the one that you need.", None),
        ("A disk whose size is the largest wins.", None),
        ("It refers to something that we do not know.", None),
        ("Disks are attached to a machine by hand.", None),
    ],
)
def test_definition_is_recognised_by_its_verb(text: str, term: str | None) -> None:
    assert queries_of(passages_of(((), text)), "definition") == ([term] if term else [])


def test_defining_passage_keeps_its_sentences() -> None:
    passages = passages_of(((), f"A managed disk is a block of storage. {FILLER}"))
    assert [item.kind for item in candidates_of(passages, "sentence", "definition")[0]] == [
        "definition"
    ]


def test_nothing_is_taken_out_of_a_passage_with_a_written_question() -> None:
    passages = passages_of((("Grow a disk",), f"Only alpha explains this subject. {FILLER}"))
    candidates, _ = candidates_of(passages, *KINDS, questions={"d0#1": ["How do I grow it?"]})
    assert [(item.kind, item.query) for item in candidates] == [("question", "How do I grow it?")]


def test_near_identical_queries_of_several_passages_are_left_out() -> None:
    texts = ["return self.name + self.first", "yield from self.others + names"]
    code = [KnownPair("docstring", "Returns the name.", f"def f():\n {text} 1") for text in texts]
    tickets = [KnownPair("resolution", "I cannot log in", f"{text} now") for text in texts]
    passages = split_documents([SourceDocument("d", pairs=[*code, *tickets])], 100)
    candidates, reasons = candidates_of(passages, *KINDS)
    assert [(item.kind, item.passage.key) for item in candidates] == [("resolution", "d#3")]
    assert reasons == {
        "docstring pairs whose query is near-identical to another": 2,
        "resolution pairs whose query is near-identical to another": 1,
    }


def test_long_sections_are_split_between_sentences_and_lines() -> None:
    code = "\n".join(f"line {number} of code" for number in range(30))
    sections = [
        DocumentSection(
            ("T",), [Paragraph(" ".join([FILLER] * 9)), Paragraph(code, is_prose=False)]
        ),
        DocumentSection(("U",), [Paragraph("word " * 45)]),
    ]
    passages = split_documents([SourceDocument("d", sections)], 20)
    assert all(len(passage.text.split()) <= 20 for passage in passages)
    words = " ".join(passage.text for passage in passages).split()
    assert (
        words
        == " ".join(
            paragraph.text for section in sections for paragraph in section.paragraphs
        ).split()
    )
    assert [passage.key for passage in passages if passage.is_first] == ["d#1", "d#10"]


def test_near_identical_passage_is_dropped_but_not_one_with_another_title() -> None:
    text = " ".join(f"word{number}" for number in range(30))
    passages = passages_of((("A",), text), (("A",), f"{text}!"), (("B C D E F G",), text))
    assert [passage.key for passage in without_near_duplicates(passages)] == ["d0#1", "d2#1"]
