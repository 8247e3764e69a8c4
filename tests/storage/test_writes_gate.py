"""Source gate: files are written, and folders locked, by `trainer.storage` alone.

Calls elsewhere are listed, with the reason why nobody takes a part of such a file for a whole one.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "trainer"
STORAGE = {"storage/atomic.py", "storage/locks.py"}
NO_FILE = "opens the null device"
APPENDED = "grows line by line; a reader takes the lines that are there"
TEMPORARY = "in a temporary folder that only this process reads"
IN_ATOMIC_FOLDER = "in a folder that gets its name when it is complete"
ALLOWED = {
    "build/resume.py": ({"write_bytes"}, "tries whether the folder can be written to"),
    "cli/main.py": ({"os.open"}, NO_FILE),
    "endpoint/answers.py": ({"open"}, APPENDED),
    "models/formats/folder.py": ({"save_pretrained"}, IN_ATOMIC_FOLDER),
    "models/parts/lora.py": ({"save_pretrained"}, IN_ATOMIC_FOLDER),
    "models/tokenizers/texts.py": ({"write_text"}, TEMPORARY),
    "models/towers/query_weights.py": ({"save_pretrained"}, IN_ATOMIC_FOLDER),
    "pipeline/process.py": ({"open"}, APPENDED),
    "preflight/gradient.py": ({"open", "write_text"}, TEMPORARY),
    "preflight/rank_part.py": ({"write_text"}, TEMPORARY),
    "preflight/recipe_file.py": ({"write_text"}, TEMPORARY),
    "mining/refresh.py": ({"np.save"}, "into memory"),
    "retrieval/indexes/approximate.py": ({"write_index"}, IN_ATOMIC_FOLDER),
    "retrieval/indexes/dense.py": ({"open_memmap"}, IN_ATOMIC_FOLDER),
    "retrieval/token_index/growing_array.py": (
        {"open"},
        "of a part of an index, whose manifest names it when it is complete",
    ),
    "runtime/console.py": ({"os.open"}, NO_FILE),
    "runtime/display.py": ({"open"}, APPENDED),
    "runtime/log.py": ({"os.open"}, APPENDED),
    "runtime/watch.py": ({"open"}, APPENDED),
}
METHODS = {
    "write_text",
    "write_bytes",
    "save_pretrained",
    "save_file",
    "open_memmap",
    "memmap",
    "savez",
    "savez_compressed",
    "savetxt",
    "write_index",
    "mkstemp",
    "NamedTemporaryFile",
    "flock",
    "lockf",
}
FUNCTIONS = {"np.save", "numpy.save", "torch.save", "os.open", "os.replace", "os.rename"}
OPENERS = {"open", "fdopen", "OSFile", "new_file", "new_stream", "GzipFile"}


def writing_calls(source: str) -> set[str]:
    """The names of the calls that can write or lock a file without `trainer.storage`."""
    tree = ast.parse(source)
    places: set[str] = set()
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    for item in (item for block in blocks for item in block.items):
        source = ast.unparse(item.context_expr)
        if source.startswith(("atomic_file(", *(f"{place}.open(" for place in places))):
            places.add(ast.unparse(item.optional_vars))
    return {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for name in [_written_by(node)]
        if name and not _is_in(node, places)
    }


def _written_by(call: ast.Call) -> str:
    name = ast.unparse(call.func)
    owner, _, method = name.rpartition(".")
    if name in FUNCTIONS:
        arguments = " ".join(map(ast.unparse, call.args))
        return "" if name == "os.open" and "O_RDONLY" in arguments else name
    if method in METHODS and (owner or method == "save_file"):
        return method
    if method in OPENERS:
        values = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
        modes = [value.value for value in values if isinstance(value, ast.Constant)]
        if any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes):
            return method
    return ""


def _is_in(call: ast.Call, places: set[str]) -> bool:
    """Whether the call writes to the place that `atomic_file` gave."""
    text = ast.unparse(call)
    return any(text.startswith(f"{place}.") or f"({place}," in text for place in places)


def test_only_storage_writes_files():
    files = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    assert len(files) > 100
    calls = {
        name: found
        for name, path in files.items()
        if name not in STORAGE and (found := writing_calls(path.read_text(encoding="utf-8")))
    }
    assert calls == {name: allowed for name, (allowed, _) in ALLOWED.items()}, (
        "write with trainer.storage.atomic, or say in ALLOWED why nobody reads a part of the file"
    )


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text('x')",
        "(folder / 'x').write_bytes(content)",
        "open('x', 'w')",
        "path.open('ab')",
        "path.open(mode='r+')",
        "np.save(path, array)",
        "torch.save(state, path)",
        "save_file(tensors, path)",
        "model.save_pretrained(folder)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "os.replace(a, b)",
        "fcntl.flock(handle, fcntl.LOCK_EX)",
        "with atomic_file(path) as partial:\n    other.write_text('x')",
    ],
)
def test_planted_write_is_noticed(source):
    assert writing_calls(source)


@pytest.mark.parametrize(
    "source",
    [
        "path.open()",
        "path.open(errors='replace')",
        "path.open('rb')",
        "write_text(path, 'x')",
        "os.open(path, os.O_RDONLY)",
        "with atomic_file(path) as partial, partial.open('w') as file:\n    file.write('x')",
    ],
)
def test_reading_and_atomic_writing_pass(source):
    assert writing_calls(source) == set()
