"""InfoNCE of large batches, and MaxSim: time, memory, and the error of MaxSim against float64."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from gpu_stages.setting import Case, Setting
from trainer.batch import Batch, Texts
from trainer.objectives.contrastive import Contrastive
from trainer.scores import dot, has_kernel, maxsim, maxsim_in_pieces, plain_maxsim

REPEATED_SHARE = 128
"""With repeats, one document in so many occurs in another row too."""


def cases(setting: Setting) -> Mapping[str, Case]:
    found: dict[str, Case] = {}
    for batch, dimensions in setting.size(((65536, 768), (262144, 384)), ((64, 8),)):
        for repeats in (False, True):
            name = f"InfoNCE {batch} x {dimensions}{', with repeats' if repeats else ''}"
            found[name] = partial(info_nce, setting, batch, dimensions, repeats)
    scores = {"pieces": maxsim_in_pieces, "plain": plain_maxsim}
    if has_kernel(setting.device):
        scores["kernel"] = maxsim
    for size in setting.size((256, 512, 1024), (4,)):
        for name, score in scores.items():
            if name != "plain" or size <= 256:
                found[f"MaxSim {size}, {name}"] = partial(time_maxsim, setting, size, score)
    found |= {
        f"error of MaxSim, {name}": partial(maxsim_error, setting, score)
        for name, score in scores.items()
    }
    return found


def info_nce(setting: Setting, batch: int, dimensions: int, repeats: bool) -> dict[str, float]:
    """Forward and backward pass from given vectors."""
    queries, documents = (
        setting.random(batch, dimensions, seed=seed).requires_grad_() for seed in (0, 1)
    )
    names = torch.arange(batch)
    if repeats:
        copies = names[::REPEATED_SHARE].clone()
        names[copies] = (copies + batch // 2 + 1) % batch
    texts = [
        Texts(torch.zeros(batch, dtype=torch.long), torch.arange(batch + 1), each)
        for each in (torch.arange(batch) + 10**9, names)
    ]
    rows = Batch(texts[0], texts[1], names[:, None])

    def step() -> None:
        queries.grad = documents.grad = None
        outcome = Contrastive(dot)(
            rows, lambda text: queries if text is texts[0] else documents, 0.05
        )
        outcome.loss.backward()  # type: ignore[no-untyped-call]

    return setting.seconds_and_peak(step, repeats=1)


Score = Callable[[Tensor, Tensor], Tensor]


def time_maxsim(setting: Setting, size: int, score: Score) -> dict[str, float]:
    """Forward and backward pass for as many queries of 32 as documents of up to 180 tokens."""
    queries, documents = (vectors.requires_grad_() for vectors in token_vectors(setting, size))

    def step() -> None:
        queries.grad = documents.grad = None
        score(queries, documents).sum().backward()  # type: ignore[no-untyped-call]

    return setting.seconds_and_peak(step)


def token_vectors(setting: Setting, size: int) -> tuple[Tensor, Tensor]:
    queries = setting.random(size, 32, 128)
    documents = setting.random(size, setting.size(180, 12), 128, seed=1)
    lengths = torch.randint(1, documents.shape[1] + 1, (size,))
    lengths[0] = documents.shape[1]
    places = torch.arange(documents.shape[1])
    documents[(places >= lengths[:, None]).to(setting.device)] = 0.0
    return queries, documents


def maxsim_error(setting: Setting, score: Score) -> dict[str, float]:
    """The largest errors of scores and of gradients, against the plain formula in float64."""
    inputs = token_vectors(setting, setting.size(64, 4))
    results = []
    for function, dtype in ((plain_maxsim, torch.float64), (score, torch.float32)):
        vectors = [each.detach().to(dtype).requires_grad_() for each in inputs]
        scores = function(*vectors)
        gradients = torch.autograd.grad((scores / 32).exp().sum(), vectors)
        results.append([scores.detach(), *gradients])
    errors = [float((one - other).abs().max()) for one, other in zip(*results, strict=True)]
    return dict(zip(("score", "query gradient", "document gradient"), errors, strict=True))
