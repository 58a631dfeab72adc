"""What a file must say of the backbone that it holds: which network, fed with what. Files are untrusted."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sslcore.errors import CheckpointError
from sslcore.settings import BackboneSettings

IN_CHECKPOINT = "method.encoder."
"""What stands before a backbone's names among the tensors of a pretraining checkpoint."""


class Description(BaseModel):
    """What must be known to rebuild a backbone and to feed it; travels with its weights.

    Among other tensors, as in a checkpoint, the backbone's have `prefix` before their names. `in_channels` may be those
    of a `stack` of frames, one after the other.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    backbone: BackboneSettings
    in_channels: Annotated[int, Field(ge=1, le=1024)]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(gt=0)], ...]
    size: Annotated[int, Field(ge=1, le=4096)]
    method: str | None = None
    prefix: str = IN_CHECKPOINT
    stack: Annotated[int, Field(ge=1)] = 1


def validated(values: Any, path: Path) -> Description:
    """What a file says of itself, checked.

    Raises:
        CheckpointError: it says nothing useful, or contradicts itself.
    """
    try:
        description = Description.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} does not say which backbone it holds ({field}: {first['msg'].lower()}): it is not a pretraining "
            "checkpoint or an exported backbone of Surnia"
        ) from error
    if not len(description.mean) == len(description.std) == description.in_channels:
        raise CheckpointError(
            f"{path} contradicts itself: {description.in_channels} channels, but {len(description.mean)} means and "
            f"{len(description.std)} deviations; export it anew"
        )
    if description.in_channels % description.stack:
        raise CheckpointError(
            f"{path} contradicts itself: {description.in_channels} channels are not those of {description.stack} frames"
        )
    return description
