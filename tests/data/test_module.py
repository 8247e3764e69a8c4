"""Training batches by global step, made ahead on a thread that ends, and whose errors arrive."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import pytorch_lightning as lightning
import torch
from ranks import on_ranks
from twins import texts_of

from trainer.data.collate import collate
from trainer.data.mined_negatives import Boundaries
from trainer.data.mixture import Mixture
from trainer.data.module import PairData, Steps
from trainer.data.order import batch_samples
from trainer.data.prefetch import prefetch
from trainer.data.retrieval_set import retrieval_set_from_rows
from trainer.data.rows import Row, Rows, known_positives
from trainer.errors import BadData, BadRecipe

ROWS = Rows.of(
    [
        Row(f"query{'a' * number}", f"positive{'b' * number}", source=f"x.jsonl:{number}")
        for number in range(11)
    ]
)


def steps(first=0, last=7, seed=13, batch_size=3, **others):
    known = known_positives(ROWS)
    return Steps(
        ROWS,
        lambda rows: collate(rows, lambda texts, _: texts_of(texts), known, 0),
        seed,
        batch_size,
        first,
        last,
        **others,
    )


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
    def test_steps_are_the_batches_of_the_order(self):
        wanted = [
            tuple(f"x.jsonl:{sample}" for sample in batch_samples(13, step, 11, 3))
            for step in range(7)
        ]
        assert ids(steps()) == wanted
        assert len(steps()) == 7

    def test_steps_from_the_middle_are_the_rest(self):
        whole = ids(steps())
        for first in range(8):
            assert ids(steps(first=first)) == whole[first:]

    def test_steps_continue_over_passes_without_repeating_an_order(self):
        stream = [sample for batch in ids(steps(last=11)) for sample in batch]  # eleven rows
        passes = [tuple(stream[start : start + 11]) for start in (0, 11, 22)]
        assert len(set(passes)) == 3
        for one_pass in passes:
            assert len(set(one_pass)) == 11

    def test_second_iteration_gives_the_same_batches(self):
        both = steps()
        assert ids(both) == ids(both)

    def test_other_seed_gives_another_order(self):
        assert ids(steps(seed=14)) != ids(steps())


class RecordingRefresher:
    """Notes when it is asked, and how many batches had been made by then."""

    def __init__(self, made, first_step=0, every_steps=3):
        self.boundaries, self.asked, self.made = Boundaries(first_step, every_steps), [], made

    def mine_before(self, steps, step):
        time.sleep(0.2)  # for a batch that is made too early
        self.asked.append(
            (step, len(self.made), threading.current_thread() is threading.main_thread())
        )
        return lambda row: replace(row, source=f"{row.source} at {step}")

    def without_mining(self, row):
        raise AssertionError("a test that begins with mining has no rows before it")


class TestRefreshed:
    def of(self, first, last, **how):
        made = []
        refreshed = RecordingRefresher(made, **how)
        plain = steps()
        return refreshed, replace(
            plain,
            collate=lambda rows: made.append(1) or plain.collate(rows),
            first=first,
            last=last,
            refresher=refreshed,
        )

    def test_batches_are_made_after_mining_at_their_boundary(self):
        refreshed, stream = self.of(0, 7)
        taken = []
        for batch in stream:
            time.sleep(0.1)  # for batches that are made ahead
            taken.append(batch)
            assert len(refreshed.made) <= 3 * len(refreshed.asked)
        assert refreshed.asked == [(0, 0, True), (3, 3, True), (6, 6, True)]
        assert [batch.sample_ids[0].split(" at ")[1] for batch in taken] == [
            "0",
            "0",
            "0",
            "3",
            "3",
            "3",
            "6",
        ]
        assert [
            tuple(name.split(" at ")[0] for name in batch.sample_ids) for batch in taken
        ] == ids(steps())

    def test_refresher_is_called_at_the_first_step(self):
        refreshed, stream = self.of(4, 7)
        list(stream)
        assert [step for step, *_ in refreshed.asked] == [4, 6]

    def test_refresher_is_called_before_the_first_boundary(self):
        refreshed, stream = self.of(0, 7, first_step=2, every_steps=4)
        list(stream)
        assert [step for step, *_ in refreshed.asked] == [0, 2, 6]


MIXTURE = Mixture(("a", "b"), sizes=(6, 5), weights=(2, 1))


@pytest.mark.parametrize(
    "mixture",
    [None, MIXTURE, replace(MIXTURE, one_source_per_batch=True)],
    ids=["one set", "samples", "batches"],
)
class TestRanks:
    @pytest.mark.parametrize("ranks", [1, 2, 4])
    def test_parts_of_the_ranks_form_the_global_batch(self, mixture, ranks):
        whole = ids(steps(batch_size=4, mixture=mixture))
        parts = [
            ids(steps(batch_size=4, mixture=mixture, rank=rank, ranks=ranks))
            for rank in range(ranks)
        ]
        assert [sum(of_step, ()) for of_step in zip(*parts, strict=True)] == whole
        assert {len(part) for of_rank in parts for part in of_rank} == {4 // ranks}

    def test_rank_reads_and_tokenises_only_its_own_part(self, mixture):
        made, own = [], steps(batch_size=4, mixture=mixture, rank=1, ranks=2)
        list(replace(own, collate=lambda rows: made.append(len(rows)) or own.collate(rows)))
        assert made == [2] * 7

    def test_steps_from_the_middle_are_the_rest(self, mixture):
        whole = ids(steps(batch_size=4, mixture=mixture, rank=1, ranks=2))
        for first in range(8):
            assert (
                ids(steps(first=first, batch_size=4, mixture=mixture, rank=1, ranks=2))
                == whole[first:]
            )

    def test_batch_without_equal_parts_is_refused(self, mixture):
        with pytest.raises(BadRecipe, match="set it to 2 or 4"):
            steps(batch_size=3, mixture=mixture, ranks=2)


class TestAhead:
    def test_prefetch_depth_limits_the_items(self):
        made = []

        def items():
            for number in range(50):
                made.append(number)
                yield number

        taking = prefetch(items(), depth=3)
        assert next(taking) == 0
        wait_until(lambda: len(made) >= 4)
        time.sleep(0.3)
        assert len(made) <= 1 + 3 + 1  # taken, waiting, in hand
        assert list(taking) == list(range(1, 50))

    def test_items_are_computed_on_another_thread(self):
        names = list(prefetch((threading.current_thread().name for _ in range(3)), depth=2))
        assert names == ["tokenizer"] * 3

    def test_error_arrives_after_the_items_before_it(self):
        def items():
            yield 1
            yield 2
            raise BadData("x.jsonl:3: broken")

        taken = []
        with pytest.raises(BadData, match="x.jsonl:3: broken"):
            taken.extend(prefetch(items(), depth=2))
        assert taken == [1, 2]

    def test_exception_that_is_an_item_is_not_raised(self):
        error = ValueError("an item")
        assert list(prefetch([error], depth=1)) == [error]

    def test_thread_ends_when_the_consumer_stops(self):
        taking = prefetch(iter(int, 1), depth=2)  # endless
        assert next(taking) == 0
        assert tokenizer_threads()
        taking.close()
        assert not tokenizer_threads()

    def test_thread_ends_after_the_last_item(self):
        assert list(prefetch(range(3), depth=2)) == [0, 1, 2]
        assert not tokenizer_threads()

    def test_thread_in_native_code_does_not_abort_the_process_at_its_end(self):
        """Nobody has closed the iterator: Lightning still holds it when a signal ends a run."""
        code = (
            "import itertools, torch\n"
            "from trainer.data.prefetch import prefetch\n"
            "many = torch.randn(200_000)\n"
            "taking = prefetch((many.sort() for _ in itertools.count()), depth=2)\n"
            "next(taking)\n"
            "raise SystemExit(85)\n"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ended.returncode == 85, ended.stderr

    def test_prefetch_of_no_items_gives_none(self):
        assert list(prefetch([], depth=2)) == []


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


def fitted(folder, pairs, **how):
    """What a listener heard of a run of seven steps, and its trainer."""
    listener = Listener()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=7,
        max_epochs=-1,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **how,
    )
    trainer.fit(listener, datamodule=pairs)
    return listener, trainer


def test_lightning_takes_every_step_once_in_order_and_validates_on_the_whole_set(tmp_path):
    held_out = retrieval_set_from_rows(ROWS[:3], "validation")
    listener, trainer = fitted(tmp_path, PairData(steps(), held_out))
    assert listener.seen == ids(steps())
    assert [at for at, _ in listener.validated] == [3, 6]
    assert all(found is held_out for _, found in listener.validated)
    assert trainer.global_step == 7


def heard_on_a_rank(folder, mixture):
    held_out = retrieval_set_from_rows(ROWS[:3], "validation")
    pairs = PairData(steps(batch_size=4, mixture=mixture), held_out)
    listener, _ = fitted(folder, pairs, strategy="ddp", devices=2, use_distributed_sampler=False)
    return listener.seen, [
        (at, found.queries == held_out.queries) for at, found in listener.validated
    ]


@pytest.mark.parametrize("mixture", [None, MIXTURE], ids=["one set", "mixture"])
def test_ddp_rank_takes_its_part_of_every_global_batch(tmp_path, mixture):
    (first, validated), (second, also_validated) = on_ranks(2, heard_on_a_rank, tmp_path, mixture)
    assert [left + right for left, right in zip(first, second, strict=True)] == ids(
        steps(batch_size=4, mixture=mixture)
    )
    assert validated == also_validated == [(3, True), (6, True)], "the whole set on every rank"


def refused_on_a_rank(folder):
    with pytest.raises(
        BadRecipe, match=r"batch_size=3 cannot be cut into 2 equal parts.* set it to 2 or 4"
    ):
        fitted(
            folder,
            PairData(steps(batch_size=3), retrieval_set_from_rows(ROWS[:3], "validation")),
            strategy="ddp",
            devices=2,
            use_distributed_sampler=False,
        )
    return True


def test_batch_that_cannot_be_divided_ends_the_run_before_the_first_step(tmp_path):
    assert on_ranks(2, refused_on_a_rank, tmp_path) == [True, True]
