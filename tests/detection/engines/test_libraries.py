"""Engines whose library is not installed: everything else works, and a sentence says what to type."""

import importlib
import importlib.util
import sys

import pytest
from support.drawn import drawn_recipe

from detection.engines.libraries import missing_library
from detection.training.model import build_engine
from detection.training.processes import check_machine
from sslcore.errors import ConfigError

UPSTREAM = "python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'"


@pytest.fixture
def without_detectron2(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "detectron2" else real(name))


def test_what_is_missing_is_said_with_upstreams_line(without_detectron2):
    assert missing_library("torchvision") is None
    recipe = drawn_recipe(engine="detectron2", network={"name": "resnet18_fpn"})
    for ask in (lambda: check_machine(recipe), lambda: build_engine(recipe, ("red",), classes=1)):
        with pytest.raises(ConfigError) as error:
            ask()
        assert UPSTREAM in str(error.value) and "setuptools<81" in str(error.value)


def test_the_package_itself_says_so_too(without_detectron2, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("detection.engines.detectron2")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="detectron2 is not installed; install it with python -m pip install"):
        importlib.import_module("detection.engines.detectron2")


def test_every_engine_is_there_with_its_library(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: real("sys") if name == "detectron2" else real(name)
    )
    assert missing_library("detectron2") is None
