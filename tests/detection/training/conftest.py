"""A drawn data set, and one uninterrupted run on it, shared by the tests that compare with it."""

import pytest
from support.drawn import draw_set, drawn_recipe, open_drawn
from support.runs import run_detection


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    return open_drawn(draw_set(tmp_path_factory.mktemp("drawn")))


@pytest.fixture(scope="session")
def whole(tmp_path_factory, drawn):
    """(folder, outcome) of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, run_detection(folder, drawn_recipe(), drawn)
