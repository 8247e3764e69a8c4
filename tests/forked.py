"""Runs the command line in a process that starts in milliseconds: a fork of the test's own, which
has everything imported.

What is tested is the real command with its exit code and what it writes to the real standard
output and error; only the start of an interpreter is spared, which takes five seconds. Not for
tests of the start itself, of imports, or of warnings.
"""

import atexit
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

TIMEOUT_SECONDS = 900


def nearfar(
    *words: Any,
    stdin: str = "",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`nearfar WORDS` to its end, in `folder`, with these variables besides those of the test."""
    import trainer.run  # noqa: F401  # with all that is heavy, once here and not in every fork

    given = list(map(str, words))
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as source,
        tempfile.TemporaryFile("w+", encoding="utf-8") as output,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
    ):
        source.write(stdin)
        source.seek(0)
        files = (source, output, errors)
        process = multiprocessing.get_context("fork").Process(
            target=_run, args=(given, files, folder, dict(environment or {}))
        )
        process.start()
        process.join(TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"nearfar {given} did not end within {TIMEOUT_SECONDS} s")
        output.seek(0)
        errors.seek(0)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(given, process.exitcode, output.read(), errors.read())


def _run(
    words: list[str],
    files: tuple[IO[str], IO[str], IO[str]],
    folder: Path | None,
    environment: dict[str, str],
) -> None:
    gc.freeze()
    # What the test's process does at its end is not for the fork to do: it deletes folders.
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False  # for the fork's own
    for number, file in enumerate(files):
        os.dup2(file.fileno(), number)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # noqa: SIM115
        2, "w", encoding="utf-8", buffering=1, closefd=False
    )
    # What pytest has changed.
    warnings.showwarning = _show_warning
    logging.getLogger().handlers.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(environment)
    if folder is not None:
        os.chdir(folder)
    sys.argv = ["nearfar", *words]
    sys.orig_argv = [sys.executable, "-m", "trainer", *words]
    from trainer.cli.main import main

    main()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)
