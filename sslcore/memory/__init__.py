"""What is remembered between steps: queues of features, prototypes, momentum encoders."""

from sslcore.memory.class_means import ClassMeans
from sslcore.memory.feature_queue import FeatureQueue
from sslcore.memory.kmeans_prototypes import KMeansPrototypes
from sslcore.memory.learned_prototypes import LearnedPrototypes
from sslcore.memory.momentum import MomentumEncoder, cosine_momentum

__all__ = [
    "ClassMeans",
    "FeatureQueue",
    "KMeansPrototypes",
    "LearnedPrototypes",
    "MomentumEncoder",
    "cosine_momentum",
]
