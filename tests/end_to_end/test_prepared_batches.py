"""A whole run on two ranks: its steps get micro-batches that were made ahead, and these change no
bit of the losses, weights and moments.
"""

import pytest
from killable import Command, Run, check_same

from trainer.microbatches import MicroBatching
from trainer.modules.retriever import Retriever

STEPS = ("optimization.max_steps=6", "validation.every_steps=6")


def require_preparation(_rank):
    training_step = Retriever.training_step

    def checking_step(self, batch, index):
        queries, documents = batch.divisions
        assert queries.texts is batch.queries
        assert documents.texts is batch.documents
        return training_step(self, batch, index)

    Retriever.training_step = checking_step


def omit_preparation(_rank):
    MicroBatching.prepare = lambda _, batch: batch


@pytest.mark.parametrize("recipe", ["bi-encoder-lora", "colbert"])
def test_run_with_prepared_batches_equals_one_without(tmp_path, toy_folder, recipe):
    run = Run(tmp_path, toy_folder("bert"), recipe, *STEPS)
    for name, before in (("ahead", require_preparation), ("in-step", omit_preparation)):
        command = Command(*run.words(name), ranks=2, before=before)
        assert command.wait() == [0, 0], command.text()
    assert len(run.losses("ahead")) == 6
    check_same(run, "ahead", "in-step")
