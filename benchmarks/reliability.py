"""What four libraries do under the same faults: SIGKILL, one byte of the newest checkpoint flipped,
and SIGTERM. Each is used as its documentation says (`measuring/resumable.py`).

SIGKILL comes at random instants, every fifth at the first sight of a new checkpoint, which is
inside a save. The next start resumes. Where it cannot, the newest checkpoint is removed by hand,
which is counted. At the end the weights are compared with those of an uninterrupted run.
"""

import argparse
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring.children import run
from measuring.record import save, table
from measuring.resumable import (
    BATCH,
    CHECKPOINTS,
    LIBRARIES,
    PAIRS,
    Notes,
    final_weights,
    train_sentence_transformers,
    write_task,
)

KILLS_PER_RUN, TIMEOUT_SECONDS, POLL_SECONDS = 5, 300.0, 0.001
SIGTERM_STEP, FLIP_STEP = 10, 12


class Attempt:
    """A training in a fork of this process, which has imported all libraries."""

    def __init__(self, train: Callable[..., None], task: Path, folder: Path, *more: Any) -> None:
        folder.mkdir(exist_ok=True)
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_train, args=(train, task, folder, *more))
        self.process.start()

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive()

    def send(self, number: int) -> None:
        if self.is_alive and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Returns the exit code; the negative number of the signal that ended it."""
        self.process.join(TIMEOUT_SECONDS)
        if self.is_alive:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"{self.process} did not end")
        return int(self.process.exitcode or 0)

    def wait_until(self, is_reached: Callable[[], bool]) -> bool:
        """Returns whether it was reached before the training ended."""
        while not is_reached():
            if not self.is_alive:
                return False
            time.sleep(POLL_SECONDS)
        return True


def _train(train: Callable[..., None], task: Path, folder: Path, *more: Any) -> None:
    with (folder / "console.txt").open("a") as console:
        os.dup2(console.fileno(), 1)
        os.dup2(console.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    train(task, folder, *more)


class Contender:
    """One library, its runs, and what was seen of them."""

    def __init__(self, library: str, task: Path, place: Path) -> None:
        self.library, self.task, self.place = library, task, place
        self.root, self.pattern = CHECKPOINTS[library]
        self.result: dict[str, Any] = {}

    def start(self, name: str) -> Attempt:
        return Attempt(LIBRARIES[self.library], self.task, self.place / name)

    def checkpoints(self, name: str) -> list[Path]:
        paths = (self.place / name / self.root).glob(self.pattern)
        return sorted(paths, key=_step)

    def entries(self, name: str) -> set[str]:
        """All names in the folder of checkpoints, those of unfinished ones too."""
        root = self.place / name / self.root
        return set(os.listdir(root)) if root.is_dir() else set()  # noqa: PTH208

    def notes(self, name: str) -> list[tuple[int, list[int]]]:
        return Notes(self.place / name).read()

    def is_equal(self, name: str) -> bool:
        """Whether the final weights are bitwise those of the uninterrupted run."""
        ours, others = (final_weights(self.library, self.place / one) for one in (name, "whole"))
        assert others
        return ours.keys() == others.keys() and all(ours[key].equal(others[key]) for key in ours)

    def uninterrupted(self) -> None:
        start = time.monotonic()
        code = self.start("whole").wait()
        assert code == 0, (self.place / "whole/console.txt").read_text()[-3000:]
        self.seconds = time.monotonic() - start
        assert self.start("again").wait() == 0
        self.result["repeatable"] = self.is_equal("again")

    def kills(self, count: int) -> None:
        drawn, killed, refused, restarts, runs = random.Random(1), 0, 0, 0, []
        while killed < count:
            name = f"killed-{len(runs)}"
            for _ in range(KILLS_PER_RUN):
                start = time.monotonic()
                has_state, first = bool(self.checkpoints(name)), len(self.notes(name))
                attempt = self.start(name)
                if killed % 5 == 4:
                    before = self.entries(name)
                    attempt.wait_until(
                        lambda name=name, seen=before: bool(self.entries(name) - seen)
                    )
                else:
                    time.sleep(drawn.uniform(0.1, 0.9) * self.seconds)
                if attempt.is_alive:
                    attempt.send(signal.SIGKILL)
                    killed += 1
                code = attempt.wait()
                if code > 0:
                    refused += 1
                    self.remove_newest(name)
                steps = [step for step, _ in self.notes(name)[first:]]
                restarts += has_state and bool(steps) and steps[0] == 0
                if code == 0:  # the machine is less busy than it was: kill earlier
                    self.seconds = min(self.seconds, time.monotonic() - start)
                    break
            refused += self.finish(name)
            runs.append({"equal": self.is_equal(name), **self.wrong_samples(name)})
            shutil.rmtree(self.place / name)
        self.result["kill"] = {
            "kills": killed,
            "could_not_resume": refused,
            "began_again": restarts,
            "runs": runs,
        }

    def wait_for_entry(self, attempt: Attempt, name: str) -> None:
        before = self.entries(name)
        attempt.wait_until(lambda: bool(self.entries(name) - before))

    def finish(self, name: str) -> int:
        """Resumes to the end. Returns how often the newest checkpoint had to be removed."""
        refused = 0
        while self.start(name).wait() != 0:
            refused += 1
            assert refused < 5, (self.place / name / "console.txt").read_text()[-3000:]
            self.remove_newest(name)
        return refused

    def remove_newest(self, name: str) -> None:
        """What a user does by hand when the newest checkpoint cannot be read."""
        *older, newest = self.checkpoints(name) or [self.place / name / "missing"]
        shutil.rmtree(newest) if newest.is_dir() else newest.unlink(missing_ok=True)
        if self.library == "Lightning":
            last = self.place / name / self.root / "last.ckpt"
            last.unlink(missing_ok=True)
            if older:
                shutil.copy(older[-1], last)

    def wrong_samples(self, name: str) -> dict[str, int | bool]:
        """Pairs of an epoch that were repeated or left out, and whether the order is that of the
        uninterrupted run. Of a step that was done twice, the last
        time counts: what came before was lost with its process.
        """
        steps, uninterrupted = dict(self.notes(name)), dict(self.notes("whole"))
        repeated = left_out = 0
        for epoch in range(2):
            length = PAIRS // BATCH
            seen = Counter(
                pair for step in range(length) for pair in steps.get(epoch * length + step, [])
            )
            repeated += sum(times - 1 for times in seen.values())
            left_out += PAIRS - len(seen)
        return {
            "repeated": repeated,
            "left_out": left_out,
            "is_order_equal": steps == uninterrupted,
        }

    def flipped_byte(self) -> None:
        attempt = self.start("flipped")
        attempt.wait_until(lambda: any(step > FLIP_STEP for step, _ in self.notes("flipped")))
        attempt.wait_until(lambda: bool(self.checkpoints("flipped")[1:]))
        attempt.send(signal.SIGKILL)
        attempt.wait()
        newest = self.checkpoints("flipped")[-1]
        if self.library == "Lightning":
            newest = newest.with_name("last.ckpt")
        files = (
            [newest] if newest.is_file() else [one for one in newest.rglob("*") if one.is_file()]
        )
        largest = max(files, key=lambda path: path.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 0x40
        largest.write_bytes(content)
        first = len(self.notes("flipped"))
        code = self.start("flipped").wait()
        steps = [step for step, _ in self.notes("flipped")[first:]]
        self.result["flip"] = {
            "file": largest.name,
            "exit_code": code,
            "checkpoint_step": _step(newest) if newest.name != "last.ckpt" else None,
            "resumed_from": steps[0] if steps else None,
            "equal": code == 0 and self.is_equal("flipped"),
        }

    def terminated(self, key: str, attempt: Attempt, name: str) -> None:
        attempt.wait_until(lambda: any(step >= SIGTERM_STEP for step, _ in self.notes(name)))
        start = time.monotonic()
        attempt.send(signal.SIGTERM)
        code = attempt.wait()
        done = max(step for step, _ in self.notes(name)) + 1
        saved = [_step(path) for path in self.checkpoints(name)]
        self.result[key] = {
            "exit_code": code,
            "seconds": time.monotonic() - start,
            "steps_done": done,
            "saved_step": max(saved, default=0),
        }


def _step(path: Path) -> int:
    return int(re.findall(r"\d+", path.name)[-1])


def main(arguments: argparse.Namespace) -> None:
    # Once here and not in every fork.
    import accelerate  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch

    import trainer.run  # noqa: F401

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="nearfar-reliability-") as place:
        task = Path(place) / "task"
        task.mkdir()
        os.environ["NEARFAR_CACHE"] = str(Path(place) / "cache")
        write_task(task)
        for library in arguments.libraries.split(","):
            folder = Path(place) / library
            folder.mkdir()
            contender = Contender(library, task, folder)
            contender.uninterrupted()
            contender.flipped_byte()
            contender.terminated("sigterm", contender.start("terminated"), "terminated")
            if library == "sentence-transformers":
                just_in_time = Attempt(train_sentence_transformers, task, folder / "jit", True)
                contender.terminated("sigterm_jit", just_in_time, "jit")
            contender.kills(arguments.kills)
            results[library] = contender.result
            print(library, contender.result, flush=True)
            shutil.rmtree(folder)
    save("reliability", report(results), results)


def report(results: dict[str, Any]) -> str:
    rows = []
    for library, result in results.items():
        kill, flip, end = result["kill"], result["flip"], result["sigterm"]
        runs = kill["runs"]
        rows.append(
            [
                library,
                str(kill["kills"]),
                str(kill["could_not_resume"]),
                str(kill["began_again"]),
                f"{sum(one['equal'] for one in runs)} of {len(runs)}",
                str(sum(one["repeated"] for one in runs)),
                str(sum(one["left_out"] for one in runs)),
                f"{sum(one['is_order_equal'] for one in runs)} of {len(runs)}",
                f"{flip['exit_code']}, {'equal' if flip['equal'] else 'not equal'}",
                f"{end['exit_code']}, step {end['saved_step']} of {end['steps_done']}",
            ]
        )
    header = [
        "",
        "kills",
        "refused",
        "began again",
        "bitwise equal",
        "repeated",
        "left out",
        "same order",
    ]
    return table(
        "resumed after SIGKILL, a flipped byte (exit code, weights at the end) and SIGTERM (exit"
        " code, newest checkpoint)",
        [*header, "flipped byte", "SIGTERM"],
        rows,
    )


if __name__ == "__main__":
    run(__file__, lambda _: {}, main, kills=10, libraries=",".join(LIBRARIES))
