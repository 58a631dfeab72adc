"""Losses: pure functions of tensors. Memories live in `sslcore.memory`; a temperature is always the caller's choice.

With several processes a loss is the mean over this process's anchors, and its gradient is the complete one of this
process's rows: the mean over processes, which DDP forms, is the loss and the gradient of the whole batch.
"""

from sslcore.losses.clustering import hinge_clustering
from sslcore.losses.info_nce import info_nce
from sslcore.losses.margins import max_margin, n_pair, triplet
from sslcore.losses.no_negatives import negative_cosine, sinkhorn, swapped_prediction
from sslcore.losses.nt_xent import nt_xent
from sslcore.losses.proto_nce import concentrations, proto_nce, prototype_nce
from sslcore.losses.sup_con import sup_con

__all__ = [
    "concentrations",
    "hinge_clustering",
    "info_nce",
    "max_margin",
    "n_pair",
    "negative_cosine",
    "nt_xent",
    "proto_nce",
    "prototype_nce",
    "sinkhorn",
    "sup_con",
    "swapped_prediction",
    "triplet",
]
