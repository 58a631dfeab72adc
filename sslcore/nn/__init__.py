"""Networks and their parts: backbones, heads, a learned similarity, batch norm over parts of the batch or over all
processes."""

from sslcore.nn.backbones import Backbone, ResNet, TinyNet, build_backbone
from sslcore.nn.bilinear import Bilinear
from sslcore.nn.heads import Layer, build_head, mlp_head
from sslcore.nn.pixel_encoder import PixelEncoder, pixel_head
from sslcore.nn.split_batch_norm import SplitBatchNorm2d, split_batch_norms
from sslcore.nn.sync_batch_norm import SyncBatchNorm, sync_batch_norms

__all__ = [
    "Backbone",
    "Bilinear",
    "Layer",
    "PixelEncoder",
    "ResNet",
    "SplitBatchNorm2d",
    "SyncBatchNorm",
    "TinyNet",
    "build_backbone",
    "build_head",
    "mlp_head",
    "pixel_head",
    "split_batch_norms",
    "sync_batch_norms",
]
