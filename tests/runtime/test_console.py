"""What a command shows of its progress: on a real pseudo-terminal, without one, and in the file."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORK = """
import os, sys, time, warnings
from pathlib import Path
from trainer.progress import expect, phase
from trainer.runtime import display
from trainer.runtime.console import console, keep_console, say, show
display.PLAIN_SECONDS = 0.5
display.SHORT_PHASE_SECONDS = 0.0
with console():
    with phase("loading"):
        time.sleep(0.6)
    expect({"test": 2})
    say("a message with --token=hunter2")
    os.environ["SOME_API_KEY"] = "canary-key"
    print("a library prints canary-key", file=sys.stderr)
    keep_console(Path(sys.argv[1]))
    for name in ("first", "second"):
        with phase(name + " test", kind="test"), phase("encoding documents", 100, "texts") as part:
            for _ in range(10):
                time.sleep(0.1)
                part.advance(10, note="a note " + "x" * 200 if len(sys.argv) > 2 else "")
            warnings.warn("careful")
    show("the result " + "y " * 60)
"""


def run_plain(tmp_path, program=WORK, *arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def run_on_terminal(tmp_path, program=WORK, *arguments, columns=80) -> str:
    """What the program writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), *arguments],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"},
        close_fds=True,
    )
    os.close(theirs)
    written = b""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                some = os.read(ours, 65536)
            except OSError:
                break
            if not some:
                break
            written += some
        elif process.poll() is not None:
            break
    os.close(ours)
    assert process.wait(30) == 0, written.decode()
    return written.decode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """How the program ended without a terminal, and its folder."""
    folder = tmp_path_factory.mktemp("plain")
    return run_plain(folder), folder


@pytest.fixture(scope="module")
def on_terminal(tmp_path_factory) -> tuple[str, Path]:
    """What the program wrote to a terminal, and its folder."""
    folder = tmp_path_factory.mktemp("terminal")
    return run_on_terminal(folder), folder


def frames(written: str) -> list[str]:
    """The forms that the live line took, without control codes."""
    forms = re.split(r"\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", written))
    return [form for form in forms if re.match(r"\d+:\d\d", form)]


LINE = re.compile(
    r"\d+:\d\d(, \d+:\d\d left( in this phase)?)?  .*(loading|encoding documents.*)  \d+\.\d GB"
)


def test_plain_lines_without_a_terminal(plain):
    ended, _ = plain
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stderr + ended.stdout
    assert "\r" not in ended.stderr
    lines = ended.stderr.splitlines()
    progress = [line for line in lines if re.match(r"\d+:\d\d", line)]
    assert re.fullmatch(r"0:00  loading  \d\.\d GB", progress[0])
    assert all(LINE.fullmatch(line) for line in progress), progress
    assert 4 <= len(progress) <= 8, "one every half second, and no more"
    assert lines.count("a message with --token=***") == 1
    assert lines.count("a library prints ***") == 1
    assert ended.stdout.count("\n") == 1, "a result is not wrapped where it goes to a file"


def test_whole_run_is_estimated_once_its_parts_are_known(plain):
    progress = plain[0].stderr.splitlines()
    second = [line for line in progress if "second test, encoding documents: " in line]
    assert second
    assert all(re.match(r"\d:\d\d, 0:0[01] left  second test", line) for line in second), second


def test_one_rewritten_line_on_a_terminal(on_terminal):
    written, _ = on_terminal
    forms = frames(written)
    assert len(forms) > 8
    assert any("first test, encoding documents: " in form for form in forms)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    assert "a message with --token=***" in text
    assert "UserWarning: careful" in text
    assert "\x1b[?25h" in written, "the cursor comes back"
    assert "the result y y" in text.rstrip().splitlines()[-2]


@pytest.mark.parametrize("columns", [40, 80])
def test_live_line_is_cut_and_never_wrapped(tmp_path, columns):
    forms = frames(run_on_terminal(tmp_path, WORK, "long notes", columns=columns))
    assert max(map(len, forms)) <= columns
    assert any(form.endswith("…") for form in forms)


@pytest.mark.parametrize("terminal", [False, True])
def test_text_is_kept_without_secrets(request, terminal):
    _, folder = request.getfixturevalue("on_terminal" if terminal else "plain")
    kept = (folder / "console.txt").read_text()
    assert re.match(r"0:00  loading", kept), "also what came before there was a file"
    assert "a message with --token=***" in kept
    assert "a library prints ***" in kept
    assert "hunter2" not in kept
    assert "canary" not in kept
    assert kept.count("UserWarning: careful") == 1
    assert "second test, encoding documents: " in kept
    assert "the result y y" in kept
    assert "\x1b" not in kept


def test_only_the_first_rank_speaks(tmp_path):
    ended = run_plain(tmp_path, RANK="1", WORLD_SIZE="2")
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert not re.search(r"^(\d+:\d\d|a message)", ended.stderr, re.MULTILINE)
    assert not (tmp_path / "console.txt").exists()


def test_bug_is_in_the_file_too(tmp_path):
    program = WORK.replace('show("the result', "raise ZeroDivisionError  # (")
    ended = run_plain(tmp_path, program)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("ZeroDivisionError")
    assert (tmp_path / "console.txt").read_text().rstrip().endswith("ZeroDivisionError")


def test_closed_standard_error_does_not_end_the_run(tmp_path):
    command = [sys.executable, "-c", WORK, str(tmp_path)]
    ended = subprocess.run(
        ["bash", "-c", '"$@" 2>/dev/full', "bash", *command], capture_output=True, cwd=ROOT
    )
    assert ended.returncode == 0
    assert b"the result" in ended.stdout
    assert "second test, encoding documents: " in (tmp_path / "console.txt").read_text()


def test_nothing_is_shown_outside_a_console(tmp_path):
    program = WORK.replace("with console():", "if True:")
    ended = run_plain(tmp_path, program)
    assert "a message" in ended.stderr
    assert not re.search(r"^\d+:\d\d", ended.stderr, re.MULTILINE)


def test_forked_child_prints_without_the_display(tmp_path):
    program = """
import os, sys, time
from trainer.progress import phase
from trainer.runtime.console import console
with console(), phase("working"):
    time.sleep(0.5)
    for number in range(20):
        child = os.fork()
        if child == 0:
            print(f"child {number}", file=sys.stderr)
            os._exit(0)
        os.waitpid(child, 0)
"""
    ended = run_plain(tmp_path, program)
    assert [line for line in ended.stderr.splitlines() if line.startswith("child")] == [
        f"child {number}" for number in range(20)
    ]
