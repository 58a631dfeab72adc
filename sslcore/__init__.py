"""One contrastive core for three applications.

Public names are loaded when they are first used, so that `import sslcore`, and with it the command line's checks, costs
nothing heavy.
"""

import importlib
from typing import Any

_HOME = {
    "ops": ("row_lse", "gram_lse"),
    "losses": (
        "info_nce", "nt_xent", "sup_con", "proto_nce", "max_margin", "triplet", "n_pair", "hinge_clustering",
        "negative_cosine", "swapped_prediction", "sinkhorn", "concentrations",
    ),
    "memory": ("FeatureQueue", "ClassMeans", "LearnedPrototypes", "KMeansPrototypes", "MomentumEncoder"),
}  # fmt: skip
_MODULES = {"augment", "distributed", "errors", "losses", "memory", "nn", "ops", "pretrain", "random", "storage"}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted([*_WHERE, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"sslcore.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"sslcore.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'sslcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
