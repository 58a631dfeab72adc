"""HTML reports: one file, everything inside it, nothing fetched."""

from apps.report.page import Page

__all__ = ["Page"]
