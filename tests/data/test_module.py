"""Training batches by global step, made ahead on a thread that ends, and whose errors arrive."""

import threading
import time

import pytest
import pytorch_lightning as lightning
import torch
from twins import texts_of

from trainer.data.collate import collate
from trainer.data.module import PairData, Steps, ahead
from trainer.data.order import batch_samples
from trainer.data.retrieval_set import from_rows
from trainer.data.rows import Row, Rows, known_positives
from trainer.errors import BadData

ROWS = Rows.of([Row(f"query{'a' * number}", f"positive{'b' * number}", source=f"x.jsonl:{number}") for number in range(11)])


def steps(first=0, last=7, seed=13, batch_size=3):
    known = known_positives(ROWS)
    return Steps(ROWS, lambda rows: collate(rows, lambda texts, _: texts_of(texts), known, 0), seed, batch_size, first, last)


def ids(batches):
    return [batch.sample_ids for batch in batches]


def tokenizer_threads():
    return [thread for thread in threading.enumerate() if thread.name == "tokenizer"]


def wait_until(condition):
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


class TestSteps:
    def test_are_the_batches_of_the_order(self):
        wanted = [tuple(f"x.jsonl:{sample}" for sample in batch_samples(13, step, 11, 3)) for step in range(7)]
        assert ids(steps()) == wanted
        assert len(steps()) == 7

    def test_begun_in_the_middle_are_the_rest(self):
        whole = ids(steps())
        for first in range(8):
            assert ids(steps(first=first)) == whole[first:]

    def test_run_on_over_epochs_without_repeating_an_order(self):
        whole = ids(steps(last=9))  # three steps an epoch
        epochs = [whole[start : start + 3] for start in (0, 3, 6)]
        for epoch in epochs:
            seen = [sample for batch in epoch for sample in batch]
            assert len(set(seen)) == 9
        assert epochs[0] != epochs[1] != epochs[2]

    def test_iterated_twice_are_the_same(self):
        both = steps()
        assert ids(both) == ids(both)

    def test_another_seed_is_another_order(self):
        assert ids(steps(seed=14)) != ids(steps())


class TestAhead:
    def test_is_ahead_by_its_depth_and_no_more(self):
        made = []

        def items():
            for number in range(50):
                made.append(number)
                yield number

        taking = ahead(items(), depth=3)
        assert next(taking) == 0
        wait_until(lambda: len(made) >= 4)
        time.sleep(0.3)
        assert len(made) <= 1 + 3 + 1  # taken, waiting, in hand
        assert list(taking) == list(range(1, 50))

    def test_works_on_another_thread(self):
        names = list(ahead((threading.current_thread().name for _ in range(3)), depth=2))
        assert names == ["tokenizer"] * 3

    def test_an_error_arrives_in_its_turn(self):
        def items():
            yield 1
            yield 2
            raise BadData("x.jsonl:3: broken")

        taken = []
        with pytest.raises(BadData, match="x.jsonl:3: broken"):
            for item in ahead(items(), depth=2):
                taken.append(item)  # noqa: PERF402 - what came before the error is the point
        assert taken == [1, 2]

    def test_an_exception_that_is_an_item_is_not_raised(self):
        error = ValueError("an item")
        assert list(ahead([error], depth=1)) == [error]

    def test_the_thread_ends_when_nobody_takes_any_more(self):
        taking = ahead(iter(int, 1), depth=2)  # endless
        assert next(taking) == 0
        assert tokenizer_threads()
        taking.close()
        wait_until(lambda: not tokenizer_threads())

    def test_the_thread_ends_after_the_last_item(self):
        assert list(ahead(range(3), depth=2)) == [0, 1, 2]
        wait_until(lambda: not tokenizer_threads())

    def test_of_nothing_is_nothing(self):
        assert list(ahead([], depth=2)) == []


class Listener(lightning.LightningModule):
    """Writes down what Lightning hands it."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.validated, self.texts = [], [], []

    def training_step(self, batch, _):
        self.seen.append(batch.sample_ids)
        self.texts.append(batch.queries)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, held_out, _):
        self.validated.append((len(self.seen), held_out))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_takes_every_step_once_in_order_and_validates_on_the_whole_set(tmp_path):
    held_out, listener = from_rows(ROWS[:3], "validation"), Listener()
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=7, max_epochs=-1, val_check_interval=3, check_val_every_n_epoch=None, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(listener, datamodule=PairData(steps(), held_out))
    assert listener.seen == ids(steps())
    assert [at for at, _ in listener.validated] == [3, 6]
    assert all(found is held_out for _, found in listener.validated)
    assert trainer.global_step == 7
