"""Images for pretraining: opened from what a recipe names, served in an order that a resumed run continues exactly."""

from sslcore.pretrain.data.datasets import NO_LABEL, ImageArray, ImageFiles, channel_statistics
from sslcore.pretrain.data.evaluation import iterate_eval
from sslcore.pretrain.data.folder import NoSuchSplit
from sslcore.pretrain.data.loader import RawBatch, TrainLoader
from sslcore.pretrain.data.opening import open_images, recognise
from sslcore.pretrain.data.order import SampleOrder

__all__ = [
    "NO_LABEL",
    "ImageArray",
    "ImageFiles",
    "NoSuchSplit",
    "RawBatch",
    "SampleOrder",
    "TrainLoader",
    "channel_statistics",
    "iterate_eval",
    "open_images",
    "recognise",
]
