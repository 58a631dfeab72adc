"""The methods, by the name a recipe gives them. A new one: settings in `recipe.py`, a file here, a line below."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sslcore.nn import Backbone
    from sslcore.pretrain.method import Method
    from sslcore.pretrain.recipe import MethodSettings

REGISTRY = {
    "moco": ("moco", "MoCo"),
    "simclr": ("simclr", "SimCLR"),
    "supcon": ("supcon", "SupCon"),
    "byol": ("byol", "BYOL"),
    "swav": ("swav", "SwAV"),
    "pcl": ("pcl", "PCL"),
}
"""Recipe name -> (file in this package, class). Closed: a recipe can name nothing else."""


def build_method(settings: "MethodSettings", encoder: "Backbone") -> "Method":
    """The method that `settings` describes, around a backbone."""
    module, name = REGISTRY[settings.name]
    return getattr(import_module(f"{__name__}.{module}"), name)(encoder, settings)
