"""What `surnia control` says of a command line before anything is trained or looked at."""

import sys
import types

import pytest

from apps import cli, control, launch_control
from apps.recipe_files import shipped
from apps.recipes import load
from rl.training.recipe import ControlRecipe


@pytest.fixture
def surnia(tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = cli.main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def calls(monkeypatch):
    """Calls of the modules that do the work, which are replaced: (module, arguments, keywords)."""
    found = []
    for name in ("train", "evaluate", "record"):
        fake = types.ModuleType(f"apps.control_{name}")
        fake.run = lambda *args, name=name, **keywords: found.append((name, args, keywords)) or 0
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr(sys.modules["apps"], f"control_{name}", fake, raising=False)
    return found


def begun(folder, recipe="agent: {batch_size: 32}\n"):
    """A run directory as training leaves it, without what was trained."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def test_help_names_every_command(surnia):
    code, out, err = surnia("control", "--help")
    assert (code, err) == (0, "")
    for name in ("train", "resume", "evaluate", "record", "export"):
        assert f"  {name}" in out
    assert surnia("control") == (0, out, "")


@pytest.mark.parametrize("name", control.control.commands)
def test_every_command_has_help(surnia, name):
    code, out, err = surnia("control", name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: surnia control {name}")


def test_an_unknown_command(surnia):
    code, _, err = surnia("control", "trian")
    assert code == 2
    assert err == "command line: unknown command 'trian' of surnia control; did you mean 'train'?\n"


@pytest.mark.parametrize("name", shipped("control"))
def test_recipes_that_ship_are_right(name):
    load(name, [], ControlRecipe, folder="control")


def test_train_hands_over_the_recipe(surnia, calls):
    code, _, err = surnia("control", "train", "pixelreach", "--agent.aux", "none", "--seeds", "3", "--dry-run")
    assert (code, err) == (0, "")
    [(name, (recipe,), given)] = calls
    assert (name, recipe.agent.aux, recipe.seeds) == ("train", "none", 3)
    assert given["dry_run"] and not given["resume"]
    assert str(given["run_dir"]) == "runs/pixelreach-1"
    assert given["command"] == ["surnia", "control", "train", "pixelreach", "--agent.aux", "none", "--seeds", "3",
                                "--dry-run"]  # fmt: skip


def test_all_mistakes_are_told_at_once(surnia, calls):
    code, _, err = surnia("control", "train", "pixelreach", "--agent.aux", "crul", "--env.stak", "2", "--steps", "0")
    assert code == 2
    assert "--agent.aux  agent.aux must be one of curl, none, not 'crul'; did you mean 'curl'?" in err
    assert "--env.stak  unknown setting 'stak' in env (surnia/PixelReach-v0); did you mean '--env.stack'?" in err
    assert "--steps  steps must be" in err
    assert not calls


def test_weights_that_are_not_there(surnia, calls):
    code, _, err = surnia("control", "train", "pixelreach", "--agent.weights", "runs/nowhere")
    assert code == 2
    assert "--agent.weights  agent.weights: there is nothing at 'runs/nowhere'" in err
    assert not calls


def test_packages_that_are_missing(surnia, calls, monkeypatch, tmp_path):
    monkeypatch.setattr(launch_control, "find_spec", lambda name: None)
    said = "agents need gymnasium and stable-baselines3, not installed here: pip install 'surnia[control]'\n"
    assert surnia("control", "train", "pixelreach") == (2, "", said)
    begun(tmp_path / "r")
    assert surnia("control", "evaluate", "r") == (2, "", said)
    assert not calls


# --- resume ----------------------------------------------------------------------------------------------------------


def test_resume_is_train_with_resume(surnia, calls, tmp_path):
    begun(tmp_path / "runs" / "mine")
    code, _, err = surnia("control", "resume", "runs/mine", "--steps", "200000")
    assert (code, err) == (0, "")
    [(name, (recipe,), given)] = calls
    assert (name, recipe.steps, recipe.agent.batch_size) == ("train", 200_000, 32)
    assert given["resume"] and str(given["run_dir"]) == "runs/mine"


def test_train_resume_without_a_run_names_one(surnia, calls, tmp_path):
    begun(tmp_path / "runs" / "mine")
    begun(tmp_path / "runs" / "det", "unknowns: {per_image: 2}\n")
    said = "command line: --resume  names no run: give the directory of one, surnia control train --resume runs/mine\n"
    assert surnia("control", "train", "--resume") == (2, "", said)
    assert not calls


def test_what_was_learned_with_cannot_change(surnia, calls, tmp_path):
    begun(tmp_path / "mine")
    code, _, err = surnia("control", "resume", "mine", "--agent.gamma", "0.9")
    assert code == 2
    assert err == (
        "command line: --agent.gamma  agent.gamma is 0.9, but mine was begun with 0.99: leave it as it was, or begin a "
        "new run (without --resume)\n"
    )
    assert not calls


def test_resume_needs_a_run(surnia, calls):
    assert surnia("control", "resume") == (2, "", f"command line: RUN is missing: {control.RUN}\n")


# --- runs of others --------------------------------------------------------------------------------------------------


def test_a_run_of_another_application(surnia, calls, tmp_path):
    begun(tmp_path / "bb", "method: {name: simclr}\n")
    begun(tmp_path / "det", "unknowns: {per_image: 2}\n")
    code, _, err = surnia("control", "resume", "bb")
    assert code == 2
    assert "continue it with surnia pretrain --resume bb" in err
    code, _, err = surnia("control", "evaluate", "det")
    assert code == 2
    assert "det is a detector, not an agent" in err
    begun(tmp_path / "agent")
    code, _, err = surnia("detect", "train", "--resume", "agent")
    assert code == 2
    assert "continue it with surnia control train --resume agent" in err
    assert not calls


def test_a_recipe_of_another_application(surnia):
    code, _, err = surnia("control", "train", "openscenes_small")
    assert (code, err) == (
        2,
        "'openscenes_small' is a recipe of another command: surnia detect train openscenes_small\n",
    )
    code, _, err = surnia("pretrain", "pixelreach")
    assert (code, err) == (2, "'pixelreach' is a recipe of another command: surnia control train pixelreach\n")


# --- evaluate, record ------------------------------------------------------------------------------------------------


def test_evaluate(surnia, calls, tmp_path):
    begun(tmp_path / "r")
    assert surnia("control", "evaluate", "r", "--episodes", "3", "--random") == (0, "", "")
    [(name, (args,), _)] = calls
    assert (name, str(args.run), args.episodes, args.seed, args.random) == ("evaluate", "r", 3, None, True)


def test_results_are_not_overwritten(surnia, calls, tmp_path):
    begun(tmp_path / "r")
    for name in ("x.json", "x.gif"):
        (tmp_path / name).write_text("mine")
    code, _, err = surnia("control", "evaluate", "r", "--json", "x.json")
    assert (code, err) == (2, "command line: --json  x.json exists already; give another name, or add --overwrite\n")
    code, _, err = surnia("control", "record", "r", "--out", "x.gif")
    assert (code, err) == (2, "command line: --out  x.gif exists already; give another name, or add --overwrite\n")
    code, _, err = surnia("control", "record", "r", "--frames", ".")
    assert (code, err) == (2, "command line: --frames  . exists already and is never overwritten; name a new folder\n")
    assert not calls
    assert surnia("control", "record", "r", "--out", "x.gif", "--overwrite")[0] == 0
    assert [name for name, *_ in calls] == ["record"]


def test_an_encoder_is_written_as_safetensors(surnia, calls, tmp_path):
    begun(tmp_path / "r")
    said = "command line: --out  must end in .safetensors, not 'x.pt'\n"
    assert surnia("control", "export", "r", "--out", "x.pt") == (2, "", said)
    assert not calls


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--out is missing: the clip, .gif or .mp4; or --frames, a folder for frames"),
        (["--out", "clip.avi"], "--out  must end in .gif or .mp4, not 'clip.avi'"),
    ],
)
def test_a_recording_goes_somewhere(surnia, calls, tmp_path, words, said):
    begun(tmp_path / "r")
    assert surnia("control", "record", "r", *words) == (2, "", f"command line: {said}\n")
    assert not calls
