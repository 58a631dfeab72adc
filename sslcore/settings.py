"""The base of every recipe's schema, and the settings that several recipes share. Imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Widths = Annotated[list[Count], Field(min_length=1)]


class Settings(BaseModel):
    """A group of settings: no unknown keys, no changes after reading, the docstring under a field is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class BackboneSettings(Settings):
    """The network whose features are wanted."""

    name: Literal["resnet18", "resnet34", "resnet50", "tiny", "pixel_encoder"] = "resnet50"
    """torchvision's ResNets; `tiny`, residual, for CPU work; `pixel_encoder`, the four convolutions of CURL."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """`small`: 3x3 stride 1 and no max-pool, for images up to about 64 pixels. ResNets only."""
    width: Count = 32
    """First-stage width of `tiny` and of `pixel_encoder`."""
    layers: Count = 4
    """Convolutions of `pixel_encoder`."""
    features: Count = 50
    """Length of a feature vector of `pixel_encoder`."""
    weights: str | None = None
    """Start from this run directory or weight file instead of random weights."""
