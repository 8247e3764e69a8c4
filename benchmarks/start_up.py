"""How long `nearfar --help` takes: the median of ten, at most 0.3 seconds wanted."""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measuring.record import save, spread, table

WANTED_SECONDS = 0.3


def processor_seconds() -> float:
    """Of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: argparse.Namespace) -> None:
    command = [str(Path(sys.executable).with_name("nearfar")), "--help"]
    subprocess.run(command, check=True, capture_output=True)  # writes the byte code
    wall, processor = [], []
    for _ in range(arguments.turns):
        before, start = processor_seconds(), time.monotonic()
        subprocess.run(
            command, check=True, capture_output=True, env={**os.environ, "COLUMNS": "120"}
        )
        wall.append(time.monotonic() - start)
        processor.append(processor_seconds() - before)
    verdict = "reached" if statistics.median(wall) <= WANTED_SECONDS else "MISSED"
    text = table(
        f"nearfar --help, {arguments.turns} times; at most {WANTED_SECONDS} s wanted: {verdict}",
        ["", "wall s", "processor s"],
        [["median (range)", spread(wall, 3), spread(processor, 3)]],
    )
    save("start-up", text, {"wall_seconds": wall, "processor_seconds": processor})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=10)
    main(parser.parse_args())
