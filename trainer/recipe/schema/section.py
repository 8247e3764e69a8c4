"""The base class of every section, and the number types that sections share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, values never change, and text is never converted
    to a number.

    A class with a field `kind` is one variant of its section. A validator raises `ValueError` with
    the full name of the key, since its text becomes the message.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
