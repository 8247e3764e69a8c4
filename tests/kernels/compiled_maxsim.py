"""Compiles MaxSim's kernels for NVIDIA GPUs, which takes none, and prints what each needs.

The arguments are compute capabilities, such as 90 for an H100.
"""

import inspect
import json
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from trainer.kernels import maxsim_programs as programs
from trainer.kernels.maxsim_triton import OPTIONS, forward_tiles, gradient_tiles

POINTERS = {
    "is_query_token": "i1",
    "is_token": "i1",
    "starts": "i64",
    "lengths": "i64",
    "positions": "u8",
}


def compile_for(architecture, name, tiles):
    function = getattr(programs, name)
    names = list(inspect.signature(function.fn).parameters)
    pointers = [each for each in names if each not in (*tiles, *programs.VARIABLE)]
    signature = dict.fromkeys(names, "i32") | dict.fromkeys(tiles, "constexpr")
    signature |= {each: f"*{POINTERS.get(each, 'fp32')}" for each in pointers}
    aligned = {(names.index(each),): [["tt.divisibility", 16]] for each in pointers}
    source = ASTSource(fn=function, signature=signature, constexprs=tiles, attrs=aligned)
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=OPTIONS)
    result = {
        "architecture": architecture,
        "kernel": name,
        "dimensions": tiles["dimensions"],
        "shared_memory": kernel.metadata.shared,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        compile_for(capability, "forward", forward_tiles(32, 128, torch.float32))
        compile_for(capability, "forward", forward_tiles(32, 768, torch.float32))
        compile_for(capability, "grad_queries", gradient_tiles(180, 128))
        compile_for(capability, "grad_documents", gradient_tiles(180, 128))
