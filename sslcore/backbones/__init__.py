"""Backbones from anywhere: runs, exported files, other people's checkpoints, torchvision."""

from sslcore.backbones.description import Description
from sslcore.backbones.loading import LoadedBackbone, load_backbone, random_backbone

__all__ = ["Description", "LoadedBackbone", "load_backbone", "random_backbone"]
