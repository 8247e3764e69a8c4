import gc
import weakref

import numpy as np
from mining_toys import generate_pairs

from trainer.data.rows import Rows
from trainer.mining.spaces import Space
from trainer.mining.task import corpus_texts, read_task, write_task
from trainer.models.dense import read_encoder


def test_blocks_are_freed_together_with_the_space(toy_folder, tmp_path):
    """Their copies on a GPU must not wait for the garbage collector."""
    rows = Rows.of(generate_pairs(seed=4, pairs=20)[0])
    (tmp_path / "task").mkdir()
    write_task(tmp_path / "task", rows, corpus_texts(["memory"], rows, None, 0.0))
    space = Space(
        read_encoder(str(toy_folder("bert"))), read_task(tmp_path / "task"), tmp_path / "work"
    )
    space.encode_all()
    (_, block), *_ = space._blocks()
    copies = weakref.ref(block._copies)
    assert np.isfinite(space.nearest(0, 3)[0]).all()
    gc.disable()
    try:
        del space, block
        assert copies() is None
    finally:
        gc.enable()
