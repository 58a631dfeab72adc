"""Image pretraining: the first floor of `sslcore`.

Names are loaded when they are first used: a recipe can be read and checked without torch.
"""

from sslcore._lazy import attach

_HOME = {
    "recipe": ("Recipe",),
    "run": ("Outcome", "pretrain"),
    "method": ("Batch", "Method", "Progress", "StepResult"),
    "data": ("ImageArray", "ImageFiles", "open_images"),
    "export": ("ExportReport", "export_backbone"),
}

__all__, __getattr__, __dir__ = attach(__name__, _HOME)
