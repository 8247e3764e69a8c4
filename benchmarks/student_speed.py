"""Encoding: documents per second of a student against its teacher, with the default precision and
in fp32.

    python benchmarks/student_speed.py --teacher runs/quickstart/model --student
    runs/distill-bi-encoder-to-small/model

What the student keeps of the teacher's nDCG@10 says `nearfar evaluate STUDENT TEACHER --data
FOLDER`.
"""

import argparse
from pathlib import Path
from typing import Any

from measuring.children import run
from measuring.contest import on_each_set, speed_rows, take_turns
from measuring.data import documents
from measuring.encoding import ours, speed
from measuring.record import noise, table


def measure(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    return speed(ours(job), documents(Path(job["source"]), job["texts"]))[1]


def compare(name: str, source: Path, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    found, raw = [], {}
    for precision in ("fp32", "auto"):
        same = {
            "source": str(source),
            "texts": arguments.texts,
            "threads": arguments.threads,
            "precision": precision,
            "micro_batch_tokens": 0,
        }
        jobs = {who: {**same, "model": getattr(arguments, who)} for who in ("teacher", "student")}
        results = raw[precision] = take_turns(
            __file__, name, jobs, arguments.turns, "texts", timeout_seconds=900
        )
        header, rows = speed_rows(results, "teacher", "texts", ("peak_megabytes",))
        title = (
            f"{name}, {precision}: {arguments.turns} turns of {results['teacher'][0]['texts']}"
            " documents; median (range)"
        )
        found += [
            table(title, [*header, "peak MB"], rows),
            noise([one["wait_ratio"] for runs in results.values() for one in runs]),
        ]
    return "\n".join(found), raw


def main(arguments: argparse.Namespace) -> None:
    if not arguments.teacher or not arguments.student:
        print("skipped: give --teacher and --student, folders of bi-encoders")
        return
    on_each_set("student-speed", compare, arguments)


if __name__ == "__main__":
    run(
        __file__,
        measure,
        main,
        teacher="",
        student="",
        data="azure-cli",
        texts=1000,
        turns=3,
        threads=0,
    )
