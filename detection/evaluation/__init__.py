"""Evaluation of open-world detectors: arrays in, a dict of numbers out. Needs no torch, and fits anybody's detections.

from detection.evaluation import DetectionArrays, GroundTruth, evaluate
"""

from detection.evaluation.arrays import DetectionArrays, GroundTruth
from detection.evaluation.by_name import by_name
from detection.evaluation.evaluator import OpenWorldEvaluator, evaluate
from detection.evaluation.forgetting import forgetting

__all__ = ["DetectionArrays", "GroundTruth", "OpenWorldEvaluator", "by_name", "evaluate", "forgetting"]
