"""Names in the package are clear and have one meaning; files and functions have a limited size.

What does not comply yet is counted in names_ratchet.json. The counts may only shrink: mend a place,
then run `python tests/test_names.py`, which lowers the counts. When a file has moved, run it with
`--grow`, and check that nothing else has grown.
"""

import ast
import builtins
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[1] / "trainer"
RATCHET = Path(__file__).with_name("names_ratchet.json")
OTHER_TESTS = {
    "laws",
    "faults",
    "security",
    "interop",
    "end_to_end",
    "docs",
    "benchmarks",
    "launch",
    "pretend",
}
"""Folders of tests that belong to no folder of the package."""
MAX_FILES, MAX_FILE_LINES, MAX_FUNCTION_LINES = 13, 300, 45

Counts = dict[str, int]
"""Findings per place: a file, or a file and a name."""

ONE_MEANING: dict[str, str] = {}
"""Names that two modules may define, each with the reason."""
PARTICIPLES = """
    begun bought bound broken brought built caught chosen come done drawn felt forgotten found
    frozen given gone grown heard held hidden kept known laid led left lent lost made meant met
    paid rewritten said seen sent shown sold spent stood taken taught thrown told torn
    understood won worn written
"""
PARTICLES = """
    again ahead alike all alone already also always anew another any anybody anything apart
    aside away before behind below beneath beside besides between both each either elsewhere
    enough ever every everybody everything few further furthermore hence here how however
    instead least less many maybe meanwhile mine more most much neither never nobody none
    nothing now often once one only other others otherwise ours own perhaps quite rather same
    several so some somebody something soon still such theirs then there thereby therefore they
    thus together too until very what when whenever where wherever which whoever whole whose why
    within without yet yours after above
"""
UNCLEAR = {*PARTICIPLES.split(), *PARTICLES.split()}
NOUNS_AND_VERBS = """
    apply assembly deepspeed embed exceed family feed multiply need proceed reply seed shed speed
    supply
"""
# The signature belongs to a class of a library that we extend.
LIBRARY_SIGNATURES = {"forward": {"input"}}
USER_WORDS = {
    "cli/mine.py": {"mine"},
    "pipeline/file.py": {"after"},
    "recipe/schema/ranking.py": {"graded"},
}
"""Names that users type: a command, and keys of pipelines and recipes. They are not counted."""
NO_SUBJECT = """
    a an and are as at before by each for has how if in is it its not of on otherwise over that
    the there they this to under what when where which while who whose with without
"""
"""A test whose name begins with one of these has no subject, or an article that adds nothing."""
FORBIDDEN_FILES = re.compile(r"(?:^|_)(?:utils?|helpers?|common|misc|legacy|v\d)(?:_|$)")


def modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every module below `root`: its path relative to it, and its syntax tree."""
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def shared_names(root: Path) -> dict[str, list[str]]:
    """Public functions, classes and types that more than one module defines at its top.

    The functions of cli/ are commands: they are named as a user types them.
    """
    places = defaultdict(list)
    for module, tree in modules(root):
        for name in public_names(tree):
            if not module.startswith("cli/"):
                places[name].append(module)
    return {
        name: modules_of_name
        for name, modules_of_name in sorted(places.items())
        if len(modules_of_name) > 1
    }


def public_names(tree: ast.Module) -> Iterator[str]:
    """Functions, classes and type aliases at the top of a module; constants are left out."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_") and not name.isupper())


def bound_names(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every name that a module binds: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                yield node, node.name
            case ast.arg():
                yield node, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node, node.attr


def is_unclear(name: str) -> bool:
    """True for a participle, adverb or pronoun that stands alone, and for `of_*`."""
    words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
    if len(words) != 1:
        return bool(words) and words[0].lower() == "of"
    word = words[0].lower()
    ending = word.endswith(("ed", "ly")) and len(word) > 4
    return word in UNCLEAR or (ending and word not in NOUNS_AND_VERBS.split())


def is_exception(node: ast.ClassDef) -> bool:
    """True for a class whose base is called an error or exception."""
    return any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)


def unclear_names(root: Path) -> Counts:
    """How many different unclear names each module binds, except `USER_WORDS`."""
    return {module: len(unclear) for module, unclear in unclear_names_by_module(root).items()}


def unclear_names_by_module(root: Path) -> dict[str, set[str]]:
    """The different unclear names that a module binds, except `USER_WORDS`.

    The class of an exception may be a participle, which says what happened.
    """
    names = {
        module: {
            name
            for node, name in bound_names(tree)
            if is_unclear(name) and not (isinstance(node, ast.ClassDef) and is_exception(node))
        }
        - USER_WORDS.get(module, set())
        for module, tree in modules(root)
    }
    return {module: unclear for module, unclear in names.items() if unclear}


def shadowing_names(root: Path) -> Counts:
    """How many names in each module hide a builtin or the package.

    Attributes and methods are reached through an object, so they hide nothing.
    """
    counts: Counts = {}
    for module, tree in modules(root):
        in_class = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef)
            for statement in node.body
            for inner in (
                [statement] if isinstance(statement, ast.FunctionDef) else ast.walk(statement)
            )
        }
        allowed = {
            id(argument)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for argument in node.args.args
            if argument.arg in LIBRARY_SIGNATURES.get(node.name, ())
        }
        hiding = {
            name
            for node, name in bound_names(tree)
            if (name == root.name or (hasattr(builtins, name) and not name.startswith("_")))
            and not isinstance(node, ast.Attribute)
            and id(node) not in in_class | allowed
        }
        if hiding:
            counts[module] = len(hiding)
    return counts


def crowded_folders(root: Path) -> Counts:
    """Folders with more Python files than one can take in; `__init__.py` does not count."""
    counts: Counts = defaultdict(int)
    for path in root.rglob("*.py"):
        counts[path.parent.relative_to(root).as_posix()] += path.name != "__init__.py"
    return {folder: files for folder, files in counts.items() if files > MAX_FILES}


def long_files(root: Path) -> Counts:
    """Files of more than 300 lines."""
    lengths = {
        path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in root.rglob("*.py")
    }
    return {path: length for path, length in sorted(lengths.items()) if length > MAX_FILE_LINES}


def long_functions(root: Path) -> Counts:
    """Functions of more than 45 lines."""
    lengths = {
        f"{module}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, tree in modules(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    return {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}


RATCHETS: dict[str, Callable[[Path], Counts]] = {
    "unclear names": unclear_names,
    "names that hide a builtin or the package": shadowing_names,
    "files per folder": crowded_folders,
    "lines per file": long_files,
    "lines per function": long_functions,
}


def current_ratchet(root: Path) -> dict[str, dict[str, Any]]:
    """The content of names_ratchet.json for the package as it is now."""
    shared = {
        name: places for name, places in shared_names(root).items() if name not in ONE_MEANING
    }
    return {"shared names": shared, **{name: count(root) for name, count in RATCHETS.items()}}


def size_of(value: int | list[str]) -> int:
    """A count, or the number of modules that share a name."""
    return value if isinstance(value, int) else len(value)


def tightened(
    allowed: dict[str, dict[str, Any]], current: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The ratchet with the lower value for each place, and without places that now comply."""
    return {
        name: {
            place: min(value, current[name][place], key=size_of)
            for place, value in places.items()
            if place in current[name]
        }
        for name, places in allowed.items()
    }


def stored_ratchet() -> dict[str, dict[str, Any]]:
    """What names_ratchet.json allows."""
    content: dict[str, dict[str, Any]] = json.loads(RATCHET.read_text(encoding="utf-8"))
    return content


def names_without_subject(root: Path) -> list[str]:
    """Names of test functions that are no sentence: they have no subject or no verb."""
    return [
        f"{module}:{node.name}"
        for module, tree in modules(root)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and (match := re.fullmatch(r"test_(?:[rs]\d+_|law_\d+_)?(.+)", node.name))
        and (match[1].split("_")[0] in NO_SUBJECT.split() or "_" not in match[1])
        and any(Path(module).stem.startswith(prefix) for prefix in ("test_", "planted"))
    ]


def test_public_name_has_one_meaning_in_the_package():
    allowed = stored_ratchet()["shared names"].keys() | ONE_MEANING.keys()
    new = {name: places for name, places in shared_names(PACKAGE).items() if name not in allowed}
    assert not new, f"rename all but one of: {new}"


@pytest.mark.parametrize("ratchet", RATCHETS)
def test_no_place_exceeds_what_the_ratchet_allows(ratchet):
    allowed = stored_ratchet()[ratchet]
    exceeding = {
        place: f"{count}, allowed: {allowed.get(place, 0)}"
        for place, count in RATCHETS[ratchet](PACKAGE).items()
        if count > allowed.get(place, 0)
    }
    names = unclear_names_by_module(PACKAGE) if ratchet == "unclear names" else {}
    details = {place: sorted(names[place]) for place in exceeding if place in names}
    assert not exceeding, f"{ratchet}: {exceeding} {details or ''}"


def test_no_file_has_a_name_that_says_nothing():
    assert [
        module for module, _ in modules(PACKAGE) if FORBIDDEN_FILES.search(Path(module).stem)
    ] == []


@pytest.mark.parametrize(
    "name", ["found", "_kept", "Said", "whole", "of_rows", "removed", "plainly", "there"]
)
def test_unclear_name_is_recognised(name):
    assert is_unclear(name)


@pytest.mark.parametrize(
    "name", ["kept_tokens", "seed", "family", "is_available", "offset", "speed", "StageFailed"]
)
def test_clear_name_passes(name):
    assert not is_unclear(name)


@pytest.mark.parametrize(
    ("ratchet", "planted"),
    [
        ("unclear names", "def read(found): pass"),
        ("unclear names", "kept = 1"),
        ("names that hide a builtin or the package", "def read(list): pass"),
        ("names that hide a builtin or the package", "def read(planted): pass"),
        ("names that hide a builtin or the package", "for id in (): pass"),
        ("lines per file", "x = 1\n" * 301),
        ("lines per function", "def long():\n" + "    x = 1\n" * 45),
    ],
)
def test_planted_finding_is_counted(tmp_path, ratchet, planted):
    root = tmp_path / "planted"
    root.mkdir()
    (root / "new.py").write_text(planted + "\n")
    counts = RATCHETS[ratchet](root)
    assert [place.split(":")[0] for place in counts] == ["new.py"]


def test_names_of_attributes_and_of_library_signatures_hide_nothing(tmp_path):
    (tmp_path / "new.py").write_text(
        "class Hit:\n    id: int\n    def open(self): self.max = 1\n"
        "    def forward(self, input): pass\n"
    )
    assert shadowing_names(tmp_path) == {}


def test_exception_may_be_called_by_what_happened(tmp_path):
    (tmp_path / "new.py").write_text("class Interrupted(OSError): pass\nclass Kept(dict): pass\n")
    assert unclear_names(tmp_path) == {"new.py": 1}


def test_names_of_tests_have_a_subject():
    assert names_without_subject(Path(__file__).parent) == []


@pytest.mark.parametrize("name", ["is_refused", "what_is_kept_is_bounded", "a_model", "triplet"])
def test_planted_test_name_without_subject_is_found(tmp_path, name):
    (tmp_path / "planted.py").write_text(f"def test_{name}(): pass\n")
    assert names_without_subject(tmp_path) == [f"planted.py:test_{name}"]


def test_folders_of_tests_mirror_the_package():
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")}
    own_folders = {folder for folder in folders if folder.split("/")[0] not in OTHER_TESTS}
    assert [folder for folder in own_folders if not (PACKAGE / folder).is_dir()] == []


def test_ratchet_is_tightened_but_never_loosened():
    allowed = {"lines": {"mended.py": 5, "shorter.py": 5, "longer.py": 5}}
    current = {"lines": {"shorter.py": 4, "longer.py": 6, "new.py": 7}}
    assert tightened(allowed, current) == {"lines": {"shorter.py": 4, "longer.py": 5}}


def test_planted_second_meaning_is_listed(tmp_path):
    for name in ("here", "elsewhere"):
        (tmp_path / f"{name}.py").write_text(
            "def search(): pass\ndef _private(): pass\nLIMIT = 1\n"
        )
    assert shared_names(tmp_path) == {"search": ["elsewhere.py", "here.py"]}


def test_planted_crowd_of_files_is_counted(tmp_path):
    for number in range(14):
        (tmp_path / f"file{number}.py").touch()
    assert crowded_folders(tmp_path) == {".": 14}


@pytest.mark.parametrize("name", ["utils", "text_helpers", "common", "maxsim_v2", "misc_types"])
def test_planted_file_name_that_says_nothing_is_recognised(name):
    assert FORBIDDEN_FILES.search(name)


if __name__ == "__main__":
    ratchet = current_ratchet(PACKAGE)
    if "--grow" not in sys.argv:
        ratchet = tightened(stored_ratchet(), ratchet)
    RATCHET.write_text(json.dumps(ratchet, indent=1, sort_keys=True) + "\n", encoding="utf-8")
