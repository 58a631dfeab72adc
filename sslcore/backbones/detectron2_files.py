"""detectron2's weight files, read without trusting them, and its names for the weights of a ResNet."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslcore.errors import CheckpointError
from sslcore.storage import files, read_weights
from sslcore.storage.messages import show_path

_LARGEST = 1 << 33
_REMEDY = "get the file anew, or give another one"


def detectron2_name(name: str) -> str:
    """detectron2's name of a weight of torchvision's ResNet.

    >>> detectron2_name("layer1.0.bn2.running_var"), detectron2_name("conv1.weight")
    ('res2.0.conv2.norm.running_var', 'stem.conv1.weight')
    """
    stage, dot, rest = name.partition(".")
    if not stage.startswith("layer"):
        stage, dot, rest = "stem", ".", name
    else:
        stage = f"res{int(stage.removeprefix('layer')) + 1}"
    parts = rest.split(".")
    for i, part in enumerate(parts):
        if part.startswith("bn"):
            parts[i] = f"conv{part.removeprefix('bn')}.norm"
        elif part == "downsample":
            parts[i : i + 2] = ["shortcut"] if parts[i + 1] == "0" else ["shortcut.norm"]
            break
    return stage + dot + ".".join(parts)


def read_detectron2(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Weights of a file in the layout of detectron2's model zoo, under their own names, and who says to have made it.

    Args:
        path: `*.pkl`, a pickled dictionary with arrays under "model" and a name under "__author__"; or what
            detectron2's checkpointer saves (`*.pth`), whose author is "".

    Raises:
        CheckpointError: it cannot be read, is of another layout, or asks for more than arrays and plain values: nothing
            else is made of what it holds.
    """
    path = Path(path)
    if path.suffix != ".pkl":
        return read_weights(path), ""
    shown = show_path(path)
    data = files.read_file(path, limit=_LARGEST, error=CheckpointError, remedy=_REMEDY)
    try:
        loaded = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except CheckpointError:
        raise
    except Exception as error:  # whatever the bytes make it raise
        raise CheckpointError(f"{shown} is not a whole weight file of detectron2 ({error}); {_REMEDY}") from error
    model = loaded.get("model") if isinstance(loaded, dict) else None
    if not isinstance(model, dict) or not all(isinstance(name, str) for name in model):
        raise CheckpointError(
            f"{shown} has no weights under 'model', as files of detectron2's model zoo do; give one of these"
        )
    tensors = {name: _tensor(name, value, shown) for name, value in model.items()}
    return tensors, str(loaded.get("__author__", ""))


def _tensor(name: str, value: Any, shown: str) -> Tensor:
    try:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(np.array(value))
    except (TypeError, ValueError):  # numbers that torch has no type for, and things that are no numbers
        pass
    raise CheckpointError(f"'{name}' in {shown} is no array of numbers; {_REMEDY}")


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and plain values and nothing else, whatever the file asks for."""

    def find_class(self, module: str, name: str) -> Any:
        # The function's home differs between versions of numpy; an array's own pickle knows it.
        allowed = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        if (module, name) == ("_codecs", "encode"):  # how protocol 2, which most files of the zoo are of, writes bytes
            return _as_bytes
        raise CheckpointError(f"a detectron2 weight file holds arrays only, and this one asks for {module}.{name}")


def _as_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")
