"""Law 9: saved and loaded, the vectors are the same; merged LoRA equals unmerged; LoRA changed
something.
"""

import pytest
import torch
from toy_models import FAMILIES, SENTENCES

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.parts.lora import adapter_changed, check_adapter_learned, merged_state
from trainer.models.settings import Lora

TUNINGS = {
    "full": None,
    "lora": Lora(rank=4, alpha=8.0),
    "rslora": Lora(rank=4, alpha=8.0, rslora=True),
    "dora": Lora(rank=4, alpha=8.0, dora=True),
    "lora with dropout": Lora(rank=4, alpha=8.0, dropout=0.5),
}


def trained(folder, tuning, **more):
    """An encoder after two real optimizer steps."""
    encoder = build_dense_encoder(DenseSettings(backbone=str(folder), lora=tuning, **more))
    optimizer = torch.optim.AdamW(
        [parameter for parameter in encoder.parameters() if parameter.requires_grad], lr=0.02
    )
    for _ in range(2):
        encoder(encoder.tokenize(SENTENCES, "document"))[:, :5].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return encoder


@torch.no_grad()
def vectors(encoder, role="document"):
    return encoder.eval()(encoder.tokenize([*SENTENCES, ""], role))


@pytest.mark.parametrize(
    ("family", "tuning"),
    [(family, "lora") for family in FAMILIES] + [("bert", tuning) for tuning in TUNINGS],
)
def test_saved_and_loaded_model_gives_the_same_vectors(toy_folder, tmp_path, family, tuning):
    encoder = trained(
        toy_folder(family),
        TUNINGS[tuning],
        projection_dimensions=16,
        query_prompt="List: ",
        document_max_length_tokens=9,
    )
    before = vectors(encoder)
    assert (
        before
        - vectors(build_dense_encoder(DenseSettings(backbone=str(toy_folder(family)))))[:, :16]
    ).abs().max() > 1e-2
    save_encoder(encoder, tmp_path / "model")
    again = read_encoder(str(tmp_path / "model"))
    assert again.contract == encoder.contract
    torch.testing.assert_close(vectors(again), before, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        vectors(again, "query"), vectors(encoder, "query"), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        vectors(encoder), before, atol=0, rtol=0, msg="saving changed the encoder that was saved"
    )


@pytest.mark.parametrize("tuning", [name for name in TUNINGS if name != "full"])
def test_merging_is_exact_and_keeps_the_model_in_training(toy_folder, tuning):
    encoder = trained(toy_folder("bert"), TUNINGS[tuning])
    encoder.double()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    plain = read_encoder(str(toy_folder("bert"))).double()
    plain.backbone.load_state_dict(
        {name: value.double() for name, value in merged_state(encoder.backbone).items()}
    )
    torch.testing.assert_close(vectors(plain), vectors(encoder), atol=1e-6, rtol=0)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_adapter_merged_twice_is_caught(toy_folder):
    encoder = trained(toy_folder("bert"), TUNINGS["lora"])
    plain = read_encoder(str(toy_folder("bert")))
    base, merged = plain.backbone.state_dict(), merged_state(encoder.backbone)
    plain.backbone.load_state_dict({name: 2 * merged[name] - base[name] for name in base})
    assert (vectors(plain) - vectors(encoder)).abs().max() > 1e-3


def test_second_training_starts_where_the_first_ended(toy_folder, tmp_path):
    encoder = trained(
        toy_folder("bert"), TUNINGS["lora"], projection_dimensions=16, query_prompt="List: "
    )
    save_encoder(encoder, tmp_path / "first")
    second = build_dense_encoder(DenseSettings(backbone=str(tmp_path / "first")))
    torch.testing.assert_close(vectors(second), vectors(encoder), atol=1e-5, rtol=0)
    assert second.contract == encoder.contract.model_copy(update={"backbone": "first"})
    assert adapter_changed(second) == 0.0


def test_adapter_that_changed_nothing_is_refused(toy_folder):
    fresh = build_dense_encoder(DenseSettings(backbone=str(toy_folder("bert"))))
    assert adapter_changed(fresh) == 0.0
    with pytest.raises(BadModel, match="LoRA changed nothing"):
        check_adapter_learned(fresh)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_adapter_that_learned_passes(toy_folder, tuning):
    encoder = trained(toy_folder("bert"), TUNINGS[tuning])
    check_adapter_learned(encoder)
    if tuning != "full":
        assert 1e-4 < adapter_changed(encoder) < 10
