"""R27: a LoRA adapter for another base, or with keys missing, is refused with the difference of
keys.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_models import SENTENCES
from transformers import AutoModel

from trainer.errors import BadModel
from trainer.models.dense import DenseSettings, build_dense_encoder, read_encoder
from trainer.models.formats.folder import save_encoder
from trainer.models.parts.lora import merge_adapter
from trainer.models.settings import Lora

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TARGETS = ("query", "value")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder trained on the packaged model, whose adapter names that model, and the vectors it
    should give.
    """
    encoder = build_dense_encoder(
        DenseSettings(
            backbone=MINILM,
            query_prompt="Q: ",
            pooling="cls",
            lora=Lora(rank=2, target_modules=TARGETS),
        )
    )
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("trained") / "model"
    save_encoder(encoder.eval(), folder)
    return folder, encoder(encoder.tokenize(SENTENCES, "query")).detach()


@pytest.fixture
def adapter(trained, tmp_path):
    return shutil.copytree(trained[0] / "adapter", tmp_path / "adapter")


def change_weights(folder, change):
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


def test_adapter_gives_the_vectors_of_the_merged_folder(trained, adapter):
    encoder = read_encoder(str(adapter))
    found = encoder(encoder.tokenize(SENTENCES, "query"))
    torch.testing.assert_close(found, trained[1], atol=1e-5, rtol=0)
    base = read_encoder(MINILM)
    assert (base(base.tokenize(SENTENCES, "query")) - found).abs().max() > 0.01
    assert not [name for name, _ in encoder.named_parameters() if "lora" in name]


def test_peft_reads_the_adapter(trained, adapter, toy_folder):
    from peft import PeftModel

    from trainer.models.files.packaged import packaged_folder

    model = PeftModel.from_pretrained(
        AutoModel.from_pretrained(packaged_folder(MINILM), add_pooling_layer=False), adapter
    ).eval()
    encoder = read_encoder(str(trained[0]))
    ids, real = encoder.tokenize(SENTENCES, "query").pad()
    hidden = model(input_ids=ids, attention_mask=real.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(
        torch.nn.functional.normalize(hidden, dim=-1), trained[1], atol=1e-5, rtol=0
    )


def test_missing_keys_are_named(adapter):
    change_weights(adapter, lambda weights: [weights.pop(name) for name in sorted(weights)[:3]])
    with pytest.raises(
        BadModel,
        match=(
            r"another base model: of its keys 3 missing, the first:"
            r" base_model\.model\.encoder\.layer\.0"
        ),
    ):
        read_encoder(str(adapter))


def test_unknown_keys_are_named(adapter):
    change_weights(
        adapter,
        lambda weights: weights.update(
            {"base_model.model.encoder.layer.77.attention.lora_A.weight": torch.zeros(2, 2)}
        ),
    )
    with pytest.raises(
        BadModel, match=r"1 unknown, the first: base_model\.model\.encoder\.layer\.77"
    ):
        read_encoder(str(adapter))


def test_adapter_of_another_width_is_refused(adapter, toy_folder):
    backbone = AutoModel.from_pretrained(toy_folder("bert"), add_pooling_layer=False)
    with pytest.raises(
        BadModel, match=r"16 unknown, .* 8 of another shape, the first: .* instead of"
    ):
        merge_adapter(backbone, adapter)


def test_adapter_of_another_rank_than_its_configuration_is_refused(adapter):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    with pytest.raises(
        BadModel, match=r"24 of another shape, the first: .*\(2, 384\) instead of \(3, 384\)"
    ):
        read_encoder(str(adapter))


def test_adapter_for_another_architecture_is_refused(adapter, toy_folder):
    backbone = AutoModel.from_pretrained(toy_folder("modernbert"))
    with pytest.raises(BadModel, match="does not fit its base model"):
        merge_adapter(backbone, adapter)


def test_contract_that_the_base_cannot_fulfil_is_refused(adapter):
    contract = json.loads((adapter / "nearfar.json").read_text())
    (adapter / "nearfar.json").write_text(json.dumps(contract | {"dimensions": 64}))
    with pytest.raises(BadModel, match="says dimensions = 64, its files say 384"):
        read_encoder(str(adapter))
