"""One contrastive core for three applications.

Public names are loaded when they are first used, so that `import sslcore`, and with it the command line's checks, costs
nothing heavy.
"""

from sslcore._lazy import attach

_HOME = {
    "ops": ("row_lse", "gram_lse"),
    "losses": (
        "info_nce", "nt_xent", "sup_con", "proto_nce", "max_margin", "triplet", "n_pair", "hinge_clustering",
        "negative_cosine", "swapped_prediction", "sinkhorn", "concentrations",
    ),
    "backbones": ("LoadedBackbone", "load_backbone"),
    "memory": ("FeatureQueue", "ClassMeans", "LearnedPrototypes", "KMeansPrototypes", "MomentumEncoder"),
}  # fmt: skip
_MODULES = {
    "augment", "backbones", "distributed", "errors", "losses", "memory", "nn", "ops", "pretrain", "random", "settings",
    "storage",
}  # fmt: skip

__all__, __getattr__, __dir__ = attach(__name__, _HOME, _MODULES)
