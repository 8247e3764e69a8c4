"""What a first quarter of an hour on one GPU should show: equality with the CPU, real runs, and
the speed of training, of the losses and of search.

    PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True python benchmarks/gpu.py --output FILE

Stages run in order, each within its own time. After each measurement the results are written to
the file, and a second start with the same file does only what is missing or has failed. A failed
measurement does not end a stage. `--small` runs every stage in small sizes on any device.
"""

import argparse
import gc
import json
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_stages import ROOT, ceilings, changes, equality, losses, runs, search, training
from gpu_stages.setting import Case, Setting
from measuring.record import machine

MINUTES = 13.0
_ERROR_LINES = 12
Results = dict[str, dict[str, Any]]
"""Stage to measurement to its result: a number, or a dictionary that may have the key "error"."""


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float
    cases: Callable[[Setting], Mapping[str, Case]]


STAGES = (
    Stage("ceilings", 15, ceilings.cases),
    Stage("equality", 90, equality.cases),
    Stage("runs", 75, runs.cases),
    Stage("training", 120, training.cases),
    Stage("changes", 150, changes.cases),
    Stage("losses", 60, losses.cases),
    Stage("search", 60, search.cases),
)


class TimeIsUp(Exception):
    """The time of a stage is spent."""


def main(words: list[str] | None = None) -> Results:
    """Runs the stages that the words of the command line name; returns all results so far."""
    arguments = parse(words)
    output = Path(arguments.output)
    content = json.loads(output.read_text()) if output.is_file() else {"results": {}}
    results: Results = content["results"]
    content["machine"] = machine()
    end = time.monotonic() + 60 * arguments.minutes

    def save() -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = output.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(output)

    with tempfile.TemporaryDirectory() as folder:
        device = torch.device(arguments.device)
        setting = Setting(device, arguments.small, Path(folder), results)
        for stage in STAGES:
            if arguments.stages and stage.name not in arguments.stages:
                continue
            run_stage(stage, setting, results.setdefault(stage.name, {}), end, save)
    print(summary(results), flush=True)
    return results


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", default=str(ROOT / "benchmarks" / "results" / "gpu.json"))
    parser.add_argument("--stages", nargs="*", choices=[stage.name for stage in STAGES])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time of all stages")
    parser.add_argument("--small", action="store_true", help="small sizes, on any device")
    parser.add_argument("--device", help="default: cuda; with --small: cpu")
    arguments = parser.parse_args(words)
    arguments.device = arguments.device or ("cpu" if arguments.small else "cuda")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; give --small to try all stages on the CPU")
    return arguments


def run_stage(
    stage: Stage, setting: Setting, results: dict[str, Any], end: float, save: Callable[[], None]
) -> None:
    start = time.monotonic()
    stage_end = min(start + stage.seconds, end)
    cases = stage.cases(setting)
    missing = {name: case for name, case in cases.items() if not is_done(results.get(name))}
    for name, case in missing.items():
        room = stage_end - time.monotonic()
        if room <= 0:
            print(f"{stage.name}: {name} skipped, the time of the stage is spent", flush=True)
            continue
        results[name] = attempt(case, room)
        if setting.is_cuda:
            gc.collect()
            torch.cuda.empty_cache()
        save()
        print(f"{stage.name}: {name}: {line(results[name])}", flush=True)
    seconds = time.monotonic() - start
    count = len(missing)
    print(f"{stage.name}: {count} of {len(cases)} measured in {seconds:.0f} s", flush=True)


def is_done(result: Any) -> bool:
    return result is not None and not (isinstance(result, dict) and "error" in result)


def attempt(action: Callable[[], Any], seconds: float) -> Any:
    """The result of an action, or its error."""
    try:
        with time_limit(seconds):
            return action()
    except Exception:  # noqa: BLE001 - one failure must not cost the other measurements
        return {"error": "\n".join(traceback.format_exc().splitlines()[-_ERROR_LINES:])}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeIsUp(f"{seconds:.0f} s are spent")

    former = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def line(result: Any) -> str:
    if isinstance(result, dict) and "error" in result:
        return "FAILED " + result["error"].splitlines()[-1]
    if isinstance(result, dict):
        return ", ".join(f"{name} {line(value)}" for name, value in result.items())
    return f"{result:.4g}" if isinstance(result, float) else str(result)


def summary(results: Results) -> str:
    failures = [
        f"{stage}: {name}"
        for stage, cases in results.items()
        for name, result in cases.items()
        if not is_done(result)
    ]
    count = sum(map(len, results.values()))
    return f"{count} measurements, {len(failures)} failed" + "".join(
        f"\n  {failure}" for failure in failures
    )


if __name__ == "__main__":
    main()
