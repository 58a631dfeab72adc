"""Image pretraining: the first floor of `sslcore`.

Names are loaded when they are first used: a recipe can be read and checked without torch.
"""

import importlib
from typing import Any

_HOME = {
    "recipe": ("Recipe",),
    "run": ("Outcome", "pretrain"),
    "method": ("Batch", "Method", "Progress", "StepResult"),
    "data": ("ImageArray", "ImageFiles", "open_images"),
    "backbones": ("LoadedBackbone", "load_backbone"),
    "export": ("ExportReport", "export_backbone"),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"sslcore.pretrain.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'sslcore.pretrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
