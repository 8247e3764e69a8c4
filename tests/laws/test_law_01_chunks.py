"""Law 1: chunked equals direct, dropout replayed; on a real backbone, in every budget, with
recomputation and without.
"""

import itertools

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from toy_models import SENTENCES
from twins import TOLERANCE, SmallEncoder, alike, full_batch, value_and_gradient

from trainer.batch import Batch, identity
from trainer.microbatches import in_microbatches, micro_batches, random_seed
from trainer.models.dense import DenseSettings, build_dense_encoder
from trainer.models.settings import Lora
from trainer.objectives.contrastive import Contrastive
from trainer.scores import dot

QUERIES = ("disk gone", "a storage account in the west", "all machines", "disk gone")
DOCUMENTS = (
    SENTENCES[0],
    SENTENCES[1],
    SENTENCES[1],
    SENTENCES[3],
    SENTENCES[2],
    SENTENCES[0],
    SENTENCES[0],
    "Show a machine",
)
"""With copies, of lengths that differ; the fourth query is the first again."""
BUDGETS = (1, 30, 64, None)
SEED, STEP = 7, 3


@pytest.fixture(params=["full", "lora"])
def tuning(request):
    return None if request.param == "full" else Lora(rank=4, dropout=0.2)


def encoder_and_batch(toy_folder, dropout, dtype, tuning):
    encoder = build_dense_encoder(
        DenseSettings(backbone=str(toy_folder("bert")), dropout=dropout, lora=tuning)
    ).to(dtype)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:  # zero at the start: half of the gradient would be zero
            torch.nn.init.normal_(parameter, std=0.1)
    documents = encoder.tokenize(DOCUMENTS, "document")
    assert len(set(documents.lengths.tolist())) >= 3
    known = [[DOCUMENTS[2 * row]] for row in range(4)]
    batch = Batch(
        encoder.tokenize(QUERIES, "query"),
        documents,
        torch.tensor([[identity(text) for text in texts] for texts in known]),
    )
    return encoder, batch


def parameters_of(encoder):
    return [parameter for parameter in encoder.parameters() if parameter.requires_grad]


def learned(encoder, batch, encode):
    return value_and_gradient(Contrastive(dot)(batch, encode, 0.2), parameters_of(encoder))


def seeded(encoder, tokens, kept_tokens=None):
    return in_microbatches(encoder, tokens, kept_tokens, SEED, STEP)


def direct(encoder, tokens, run=None):
    """The micro-batches encoded one after the other: what `in_microbatches` must
    equal to the last bit.
    """

    numbers = itertools.count()

    def encode(texts):
        ids = texts.identities.tolist()
        distinct = sorted(set(ids))  # the order of micro-batches of equal lengths
        first = [ids.index(each) for each in distinct]
        cuts = micro_batches(texts.lengths[first], tokens) if tokens else [torch.arange(len(first))]
        vectors = {}
        for cut in cuts:
            part = texts.select(torch.tensor([first[row] for row in cut.tolist()]))
            torch.manual_seed(random_seed(SEED, STEP, 0, next(numbers)))
            for row, vector in zip(
                cut.tolist(), run(encoder, part) if run else encoder(part), strict=True
            ):
                vectors[distinct[row]] = vector
        return torch.stack([vectors[each] for each in ids])

    return encode


@pytest.mark.parametrize("tokens", BUDGETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
class TestChunkedEqualsDirect:
    def test_chunked_equals_direct_with_dropout_to_the_last_bit(
        self, toy_folder, tokens, dtype, tuning
    ):
        encoder, batch = encoder_and_batch(toy_folder, 0.3, dtype, tuning)
        value, gradient = learned(encoder, batch, direct(encoder, tokens))
        assert gradient.norm() > 1e-3
        for recompute in (False, True):
            found = learned(encoder, batch, seeded(encoder, tokens, 0 if recompute else None))
            assert torch.equal(found[0], value)
            # Copies are summed in another order than in the twin above: rounding, and nothing else.
            assert alike(found, (value, gradient), TOLERANCE[dtype] / 10)
        kept, replayed = (
            learned(encoder, batch, seeded(encoder, tokens, 0 if recompute else None))
            for recompute in (False, True)
        )
        assert torch.equal(kept[1], replayed[1])
        assert not alike(
            learned(encoder, batch, in_microbatches(encoder, tokens, seed=SEED, step=STEP + 1)),
            (value, gradient),
            1e-3,
        ), "dropout is active"

    def test_chunked_equals_the_whole_batch_at_once_without_dropout(
        self, toy_folder, tokens, dtype
    ):
        encoder, batch = encoder_and_batch(toy_folder, 0.0, dtype, None)
        wanted = learned(encoder, batch, encoder)
        for recompute in (False, True):
            assert alike(
                learned(encoder, batch, seeded(encoder, tokens, 0 if recompute else None)),
                wanted,
                TOLERANCE[dtype],
            )


def test_dropout_that_is_not_replayed_is_caught(toy_folder):
    encoder, batch = encoder_and_batch(toy_folder, 0.3, torch.float64, None)
    wanted = learned(encoder, batch, seeded(encoder, 30))
    forgetful = direct(
        encoder,
        30,
        lambda encode, part: checkpoint(
            encode, part, use_reentrant=False, preserve_rng_state=False
        ),
    )
    value, gradient = learned(encoder, batch, forgetful)
    assert abs(value - wanted[0]) < 1e-12, "the value alone does not show it"
    assert not alike((value, gradient), wanted, 1e-3)


def test_micro_batch_missing_in_the_gradient_is_caught(toy_folder):
    encoder, batch = encoder_and_batch(toy_folder, 0.0, torch.float64, None)
    wanted = learned(encoder, batch, encoder)
    calls = []

    def forgetful(texts):
        calls.append(len(texts))
        return encoder(texts).detach() if len(calls) == 2 else encoder(texts)

    assert not alike(learned(encoder, batch, in_microbatches(forgetful, 30)), wanted, 1e-3)
    assert len(calls) > 3


def test_recomputation_uses_the_same_autocast(toy_folder):
    encoder, batch = encoder_and_batch(toy_folder, 0.3, torch.float32, None)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [
            Contrastive(dot)(batch, seeded(encoder, 30, kept_tokens), 0.2)
            for kept_tokens in (None, 0)
        ]
    kept, replayed = (value_and_gradient(loss, parameters_of(encoder)) for loss in losses)
    assert torch.equal(kept[0], replayed[0])
    assert torch.equal(kept[1], replayed[1])
    assert not alike(kept, learned(encoder, batch, seeded(encoder, 30)), 1e-6), "autocast is active"


def test_next_step_does_not_depend_on_recomputation(toy_folder):
    """Else its dropout, and so the whole loss curve, would depend on `machine.kept_tokens`."""
    encoder, batch = encoder_and_batch(toy_folder, 0.3, torch.float32, None)
    second_steps = []
    for kept_tokens in (None, 0):
        learned(encoder, batch, in_microbatches(encoder, 30, kept_tokens, SEED, step=0))
        second_steps.append(
            learned(encoder, batch, in_microbatches(encoder, 30, kept_tokens, SEED, step=1))
        )
    (value, gradient), (other_value, other_gradient) = second_steps
    assert torch.equal(value, other_value)
    assert torch.equal(gradient, other_gradient)


def test_dropout_on_a_gpu_is_replayed(monkeypatch):
    """A second generator stands for the GPU's: like it, it is seeded by `torch.manual_seed` and is
    not saved by `checkpoint` for arguments without a tensor on the device.
    """
    gpu = torch.Generator()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", gpu.manual_seed)
    encoder, batch = SmallEncoder(), full_batch()

    class GpuDropout(torch.nn.Module):
        def forward(self, means):
            return means * torch.bernoulli(torch.full_like(means, 0.7), generator=gpu)

    encoder.dropout = GpuDropout()
    kept, recomputed = (learned(encoder, batch, seeded(encoder, 24, kept)) for kept in (None, 0))
    assert torch.equal(kept[0], recomputed[0])
    assert torch.equal(kept[1], recomputed[1])
    assert not alike(kept, learned(encoder, batch, in_microbatches(encoder, 24)), 1e-3)
