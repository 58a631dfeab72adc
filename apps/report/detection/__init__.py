"""The HTML report of a detection run."""

from apps.report.detection.report import REPORT, write_detection_report

__all__ = ["REPORT", "write_detection_report"]
