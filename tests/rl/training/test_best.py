import contextlib

import numpy as np
import pytest
from support.agents import tiny_agent
from support.control import small_recipe

from rl.envs import make_vec_env
from rl.training.best import BestFiles, best_clip, keep_best
from rl.training.evaluation import play
from sslcore.errors import CheckpointError


@pytest.fixture
def played():
    recipe = small_recipe()
    with contextlib.closing(make_vec_env(recipe.env.one, 1)) as envs:
        return play(lambda obs: np.zeros((1, 2)), envs, episodes=1, seed=recipe.evaluation.seed)


def test_a_clip_of_another_form_does_not_outlive_its_agent(tmp_path, played):
    keep_best(tmp_path, tiny_agent(), small_recipe(), played)
    assert best_clip(tmp_path) == tmp_path / "best.gif"
    keep_best(tmp_path, tiny_agent(), small_recipe(evaluation={"clip": "none"}), played)
    assert best_clip(tmp_path) is None and (tmp_path / "best.zip").is_file()


def test_what_was_best_comes_back_and_what_was_not_there_goes(tmp_path):
    best = BestFiles(tmp_path)
    best.save("step-00000000")
    (tmp_path / "best.zip").write_bytes(b"first")
    best.save("step-00000010")
    (tmp_path / "best.zip").unlink()  # writers of whole files replace them
    (tmp_path / "best.zip").write_bytes(b"second")
    (tmp_path / "best.gif").write_bytes(b"moving")
    best.restore("step-00000010")
    assert (tmp_path / "best.zip").read_bytes() == b"first" and not (tmp_path / "best.gif").exists()
    best.restore("step-00000000")
    assert not (tmp_path / "best.zip").exists()


def test_damage_is_noticed(tmp_path):
    (tmp_path / "best.zip").write_bytes(b"first")
    best = BestFiles(tmp_path)
    best.save("step-00000010")
    best.verify("step-00000010")
    (tmp_path / "best" / "step-00000010" / "best.zip").write_bytes(b"other")
    for asked in (best.verify, best.restore):
        with pytest.raises(CheckpointError, match=r"best\.zip is damaged"):
            asked("step-00000010")
    with pytest.raises(CheckpointError, match="there is no best agent"):
        best.verify("step-00000020")
