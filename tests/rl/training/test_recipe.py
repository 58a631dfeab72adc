import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import configs.control
from rl.envs import EnvSettings
from rl.training.recipe import AgentSettings, ControlRecipe, crop_side
from sslcore.yaml_source import read_yaml

SHIPPED = sorted(Path(configs.control.__file__).parent.glob("*.yaml"))


def test_reading_a_recipe_imports_nothing_heavy():
    code = (
        "import sys; from rl.training.recipe import ControlRecipe; ControlRecipe(); "
        "print(*{'torch', 'numpy', 'gymnasium', 'stable_baselines3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_whole(path):
    recipe = ControlRecipe.model_validate(read_yaml(path.read_text(), name=path.name).values)
    assert recipe.agent_steps > recipe.agent.learning_starts and recipe.steps >= recipe.checkpoint_every
    assert ControlRecipe.model_validate(recipe.as_dict()) == recipe


def test_the_six_published_tasks():
    repeats = {}
    for path in SHIPPED:
        recipe = ControlRecipe.model_validate(read_yaml(path.read_text(), name=path.name).values)
        if recipe.agent.batch_size == 512:
            repeats[recipe.env.name] = recipe.env.action_repeat
            assert (recipe.env.size, recipe.agent.image_size, recipe.env.stack) == (100, 84, 3)
            assert recipe.agent.learning_rate == (2e-4 if recipe.env.name == "cheetah-run" else 1e-3)
    assert repeats == {
        "cartpole-swingup": 8, "finger-spin": 2, "walker-walk": 2, "reacher-easy": 4, "cheetah-run": 4,
        "ball_in_cup-catch": 4,
    }  # fmt: skip


def test_defaults_are_those_of_the_algorithm():
    import inspect

    from rl import CURL

    signature, settings = inspect.signature(CURL.__init__).parameters, AgentSettings()
    differ = {"image_size", "gradient_steps", "ent_coef"}
    for name in set(AgentSettings.model_fields) & set(signature) - differ:
        assert getattr(settings, name) == signature[name].default, name
    assert signature["ent_coef"].default == f"auto_{settings.initial_ent_coef:g}"


def test_units():
    recipe = ControlRecipe(steps=4000, env={"action_repeat": 4, "n_envs": 5})
    assert recipe.agent_steps == 1000 and recipe.env_steps_at_once == 20
    assert crop_side(100) == 84
    assert recipe.env.one == EnvSettings(action_repeat=4) and type(recipe.env.one) is EnvSettings


def test_a_recipe_for_each_seed():
    recipe = ControlRecipe(seed=3, seeds=3, parallel=2)
    assert [(one.seed, one.seeds, one.parallel) for one in recipe.for_each_seed()] == [(3, 1, 1), (4, 1, 1), (5, 1, 1)]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"env": {"size": 84}, "agent": {"image_size": 100}}, "agent.image_size must not be above env.size"),
        ({"env": {"size": 84}, "agent": {"image_size": 84}}, "to leave room for crops: 71"),
        ({"steps": 1001, "env": {"action_repeat": 8}}, "steps must be a multiple of 8 .* such as 1000"),
        ({"agent": {"batch_size": 1}}, "agent.batch_size must be above 1"),
        ({"seed": 2**31 - 1, "seeds": 2}, "seed [+] seeds"),
        ({"seed": 5, "evaluation": {"seed": 5}}, r"evaluation.seed 5 is also a seed of training \(5\), .* another"),
        ({"seed": 3, "seeds": 3, "evaluation": {"seed": 5}}, r"is also a seed of training \(3 to 5\)"),
        ({"agent": {"aux": "simclr"}}, "agent.aux"),
        ({"agent": {"gradient_steps": -2}}, "agent.gradient_steps"),
    ],
)
def test_what_cannot_be_meant(given, sentence):
    with pytest.raises(ValidationError, match=sentence):
        ControlRecipe.model_validate(given)


def test_seeds_beside_the_evaluations_are_well():
    for seed in (2, 6):
        ControlRecipe(seed=3, seeds=3, evaluation={"seed": seed})


def test_frames_without_room_are_well_if_nothing_is_cropped():
    for augmentation in ("shift", "none"):
        ControlRecipe(env={"size": 84}, agent={"image_size": 84, "augmentation": augmentation})
