"""Open-world detection inside an installed, unmodified detectron2.

Importing this package registers the region heads and the proposal network, so that detectron2's configurations can name
them. It needs detectron2; `detection.engines.libraries` has the line that installs it.
"""

from detection.engines.libraries import missing_library

if (_missing := missing_library("detectron2")) is not None:
    raise ImportError(_missing)

from detection.engines.detectron2.config import add_openworld_config
from detection.engines.detectron2.data import OpenWorldMapper, register_openworld, register_view
from detection.engines.detectron2.detector import OpenWorldRCNN, build_detector
from detection.engines.detectron2.evaluation import OpenWorldEvaluator
from detection.engines.detectron2.heads import (
    OpenWorldRes5ROIHeads,
    OpenWorldROIHeads,
    OpenWorldRPN,
    OpenWorldStandardROIHeads,
    RememberRegions,
)
from detection.engines.detectron2.lazy import lazy_openworld

__all__ = [
    "OpenWorldEvaluator",
    "OpenWorldMapper",
    "OpenWorldRCNN",
    "OpenWorldROIHeads",
    "OpenWorldRPN",
    "OpenWorldRes5ROIHeads",
    "OpenWorldStandardROIHeads",
    "RememberRegions",
    "add_openworld_config",
    "build_detector",
    "lazy_openworld",
    "register_openworld",
    "register_view",
]
