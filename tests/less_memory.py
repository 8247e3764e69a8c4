"""Lets a process fail like one without enough memory, also after it has started itself again."""

from dataclasses import replace
from pathlib import Path

SITE = """
import os, sys
from importlib.machinery import PathFinder

class Limit:
    def find_spec(self, name, path, target=None):
        if name != "trainer.microbatches" or os.environ.get("RANK", "0") != "{rank}":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            sys.path.append({tests!r})
            from less_memory import limit_micro_batches
            limit_micro_batches(module, {tokens}, {first_step})

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Limit())
"""


def limit_micro_batches(module, tokens: int, first_step: int) -> None:
    """From a step on, a micro-batch of more padded tokens asks the allocator for 2^60 bytes."""
    import torch

    original = module.MicroBatching.for_step

    def for_step(self, step, divisions=()):
        def encode(texts):
            if step >= first_step and len(texts) * int(texts.lengths.max()) > tokens:
                torch.empty(1 << 60, dtype=torch.uint8)
            return self.encode(texts)

        return original(replace(self, encode=encode), step, divisions)

    module.MicroBatching.for_step = for_step


def limited_interpreter(folder: Path, tokens: int, first_step: int, rank: int = 0) -> dict:
    """The environment of new processes of which one rank has this limit."""
    folder.mkdir()
    tests = str(Path(__file__).parent)
    text = SITE.format(tests=tests, tokens=tokens, first_step=first_step, rank=rank)
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parents[1]}"}
