"""The HTML report of a control run."""

from apps.report.control.report import REPORT, write_control_report

__all__ = ["REPORT", "write_control_report"]
