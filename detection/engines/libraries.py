"""Detection libraries that engines adapt and that may be absent. Imports nothing heavy."""

import importlib.util
import logging
import warnings

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


def silence_library(engine: str) -> None:
    """What torch says of a library's code is for the library's authors: who runs a command can do nothing about it."""
    if engine != "detectron2":
        return
    for begins in ("`torch.jit.script` is deprecated", "torch.meshgrid: ", "`broadcast_buffers` is deprecated"):
        warnings.filterwarnings("ignore", message=begins)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
