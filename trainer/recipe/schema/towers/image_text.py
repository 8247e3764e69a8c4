"""The section `model` of kind image_text: a checkpoint of two towers, or two models together."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from trainer.recipe.schema.model import ModelSection
from trainer.recipe.schema.section import Section


class StoredImageTower(Section):
    """An image tower that starts from a vision model, such as DINOv2 or ViT."""

    kind: Literal["stored"] = "stored"
    backbone: str = Field(
        description="folder or hub name of a vision model of transformers, with its pooler"
    )
    train_all: bool = Field(
        False, description="train all its weights, also if model.tuning.kind is lora"
    )


class NewImageTower(Section):
    """An image tower with random weights: a Vision Transformer (Dosovitskiy et al. 2021), which
    takes images of one size. All its weights are trained.
    """

    kind: Literal["new"] = "new"
    image_size: PositiveInt = Field(64, description="width and height of an image in pixels")
    patch_size: PositiveInt = Field(8, description="width and height of a patch in pixels")
    width: PositiveInt = Field(192, description="components of the vector of a patch")
    layers: PositiveInt = Field(6, description="number of layers")
    heads: PositiveInt = Field(3, description="attention heads per layer")

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        for key, divisor in (("image_size", "patch_size"), ("width", "heads")):
            if getattr(self, key) % getattr(self, divisor):
                raise ValueError(
                    f"model.image_tower.{key}={getattr(self, key)} is no multiple of"
                    f" {divisor}={getattr(self, divisor)}; change one of them"
                )
        return self


class ImageTextModel(ModelSection):
    """A model with a tower for images and one for captions, whose vectors are compared."""

    image_tower: Annotated[StoredImageTower | NewImageTower, Field(discriminator="kind")] | None = (
        Field(
            None,
            description=(
                "the tower for images beside a `backbone` of texts, such as a sentence-embedding"
                " model; both get a new linear projection; null: `backbone` has both towers"
            ),
        )
    )
    projection_dimensions: PositiveInt | None = Field(
        None,
        description="width of the projections of an `image_tower`; null: 256",
    )
    frozen_tower: Literal["image", "text"] | None = Field(
        None,
        description=(
            "the tower that keeps its weights, projection included unless it is new (image:"
            " locked-image tuning, Zhai et al. 2022); null: both are trained"
        ),
    )

    @property
    def base_models(self) -> dict[str, str]:
        """The models that training starts from, by their keys."""
        models = super().base_models
        if isinstance(self.image_tower, StoredImageTower):
            models["model.image_tower.backbone"] = self.image_tower.backbone
        return models

    @model_validator(mode="after")
    def _image_tower_fits(self) -> Self:
        if self.image_tower is None and self.projection_dimensions is not None:
            raise ValueError(
                "model.projection_dimensions is the width of the projections of two towers, but"
                " there is no model.image_tower; remove it, or name one"
            )
        if isinstance(self.image_tower, NewImageTower) and self.frozen_tower == "image":
            raise ValueError(
                "model.frozen_tower=image keeps the random weights of a new image tower; give a"
                " model.image_tower of kind stored, or leave frozen_tower out"
            )
        return self

    @model_validator(mode="after")
    def _documents_are_images(self) -> Self:
        for key in ("document_prompt", "document_max_length_tokens"):
            if getattr(self, key) is not None:
                raise ValueError(
                    f"model.{key} is for texts, but the documents of kind image_text are images;"
                    " remove it"
                )
        if self.quantizes_4bit:
            raise ValueError(
                "model.tuning.quantize_4bit is not supported for kind image_text; set it to false"
            )
        return self
