"""Detection libraries that engines adapt and that may be absent. Imports nothing heavy."""

import importlib.util

INSTALL_DETECTRON2 = (
    "python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"
)
"""Upstream's own line, into an environment that has torch and setuptools below 81: it is not on PyPI."""


def missing_library(engine: str) -> str | None:
    """A sentence if the engine's library is not installed: what is missing and how to get it."""
    if engine != "detectron2" or importlib.util.find_spec("detectron2") is not None:
        return None
    return (
        f"engine: detectron2 is not installed; install it with {INSTALL_DETECTRON2} (torch and setuptools<81 first), "
        "or use engine torchvision"
    )
