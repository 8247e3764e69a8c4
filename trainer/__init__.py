"""Nearfar: text-embedding and retrieval models whose gradient depends only on the recipe."""

import os

__version__ = "0.1.0"

if "PYTORCH_ALLOC_CONF" not in os.environ:  # the name in newer versions of PyTorch
    # Before PyTorch is imported, since it reads this once. The shapes of micro-batches differ, and
    # blocks of a fixed size would leave gaps in a GPU's memory.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
