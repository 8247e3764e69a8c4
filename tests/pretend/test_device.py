"""The pretend device itself: what it refuses, what it counts, and its random numbers."""

import pytest
import torch
from pretend_device import DEVICE, UPLOADS, WAITS, on_pretend_device, reset_counts
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.log_partition import log_partition
from trainer.scores import dot


def total_counts(action):
    reset_counts()
    action()
    return WAITS.total(), UPLOADS.total()


def test_cpu_tensor_that_meets_the_device_is_refused():
    def work():
        vectors = torch.ones(3, 2, device=DEVICE)
        assert vectors.device == torch.device(DEVICE)
        for operation in (
            lambda: vectors + torch.ones(2),
            lambda: vectors @ torch.ones(2, 3),
            lambda: vectors[torch.tensor([1, 0])],
            lambda: torch.cat([vectors, torch.ones(1, 2)]),
            lambda: torch.ones(3, 2).add_(vectors),
        ):
            with pytest.raises(
                RuntimeError, match=r"a CPU tensor of shape .* meets tensors of the"
            ):
                operation()
        assert (vectors + torch.tensor(1.0)).tolist() == [[2.0, 2.0]] * 3, "it counts as a scalar"
        with pytest.raises((TypeError, RuntimeError)):
            vectors.numpy()

    on_pretend_device(work)


def test_waits_and_uploads_are_counted():
    def work():
        vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0]], device=DEVICE)
        mask = vectors > 0
        waits = {
            "item": lambda: vectors.sum().item(),
            "float": lambda: float(vectors.norm()),
            "if": lambda: bool(mask.any()),
            "tolist": vectors.tolist,
            "cpu": vectors.cpu,
            "nonzero": mask.nonzero,
            "mask as index": lambda: vectors[mask],
            "assignment to a mask": lambda: vectors.clone().__setitem__(mask, 0.0),
            "unique": vectors.unique,
            "repeats": lambda: vectors.repeat_interleave(mask.sum(1), 0),
            "equal": lambda: torch.equal(vectors, vectors),
        }
        counts = {name: total_counts(action) for name, action in waits.items()}
        assert counts == dict.fromkeys(waits, (1, 0))
        assert total_counts(lambda: (vectors @ vectors.T).softmax(1).topk(1)) == (0, 0)
        assert total_counts(lambda: vectors[torch.arange(2, device=DEVICE)]) == (0, 0)
        assert total_counts(lambda: torch.ones(3).to(DEVICE)) == (0, 1)
        assert total_counts(lambda: torch.tensor([1], device=DEVICE)) == (0, 1)
        assert total_counts(lambda: vectors.new_tensor([1.0])) == (0, 1)
        assert total_counts(lambda: vectors[0].copy_(torch.ones(2))) == (0, 1)
        assert total_counts(lambda: vectors.to(DEVICE)) == (0, 0)

    on_pretend_device(work)


def test_count_names_the_line_of_the_package():
    class Excluded:
        def in_tile(self, queries, documents):
            return torch.tensor([0]), torch.tensor([1])

    def work():
        vectors = torch.eye(2, device=DEVICE)
        reset_counts()
        log_partition(vectors, vectors, dot, 1.0, Excluded())
        assert UPLOADS
        assert all(place.startswith("trainer/log_partition.py:") for place in UPLOADS)

    on_pretend_device(work)


def test_device_has_its_own_random_numbers():
    def work():
        ones, state = torch.ones(1000, device=DEVICE), torch.get_rng_state()
        draws = [functional.dropout(ones, 0.5).cpu() for _ in range(2)]
        assert not torch.equal(*draws)
        assert torch.equal(torch.get_rng_state(), state), "the generator of the CPU is not used"
        torch.set_rng_state(torch.Generator().manual_seed(5).get_state())
        torch.manual_seed(7)
        first = functional.dropout(ones, 0.5).cpu()
        device_state = torch.pretend.get_rng_state()
        assert not torch.equal(functional.dropout(ones, 0.5).cpu(), first)
        torch.manual_seed(7)
        assert torch.equal(functional.dropout(ones, 0.5).cpu(), first)
        assert torch.equal(torch.pretend.get_rng_state(), device_state)
        assert not torch.equal(torch.rand(9, device=DEVICE), torch.rand(9, device=DEVICE))

    on_pretend_device(work)


def test_recomputation_that_does_not_replay_dropout_is_noticed():
    """As on a GPU: of a function whose arguments are on the CPU, only the state of the CPU's
    generator is replayed.
    """

    def gradient_is_right(argument):
        weight = torch.ones(1000, device=DEVICE, requires_grad=True)
        masks = []

        def encode(_):
            masks.append(functional.dropout(torch.ones_like(weight), 0.5))
            return (weight * masks[-1]).sin().sum()

        loss = checkpoint(encode, argument, use_reentrant=False)
        (gradient,) = torch.autograd.grad(loss, weight)
        expected_gradient = masks[0] * (weight * masks[0]).cos()
        return torch.allclose(gradient, expected_gradient)

    def work():
        assert not gradient_is_right(torch.empty(0))
        assert gradient_is_right(torch.empty(0, device=DEVICE))

    on_pretend_device(work)
