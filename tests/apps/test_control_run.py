"""`surnia control` from a recipe to a report, with an agent that is trained for a moment."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from support.control import small_recipe

from apps import cli, control_train
from apps.control_record import best_run
from apps.control_seeds import Seed
from apps.recipe_text import dump
from apps.report.control.run import ControlRun
from rl.training.runner import load_agent
from sslcore.backbones import load_backbone
from sslcore.storage import RunDirectory, read_metrics


@pytest.fixture
def surnia(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        code = cli.main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def train(folder, *words, **changes):
    """A run in `folder`; its path."""
    file = folder / "small.yaml"
    file.write_text(dump(small_recipe(threads=1, **changes)))
    assert cli.main(["control", "train", str(file), "--run", str(folder / "run"), *words]) == 0
    return folder / "run"


def in_this_process(recipe, run_dir, look):
    """`train_seeds` without processes of their own, which take seconds to start."""
    seeds = [Seed(one, run_dir / "seeds" / f"seed-{one.seed}", 0) for one in recipe.for_each_seed()]
    for seed in seeds:
        with RunDirectory.create(seed.folder, recipe=dump(seed.recipe), command=[], seed=seed.recipe.seed) as directory:
            control_train.one(seed.recipe, directory, resume=False)
    look(seeds)
    return seeds, 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("acting"))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A common run of three seeds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(control_train, "train_seeds", in_this_process)
        return train(tmp_path_factory.mktemp("seeds"), seeds=3, steps=80)


# --- one seed --------------------------------------------------------------------------------------------------------


def test_a_run_ends_with_a_report(run):
    page = (run / "report.html").read_text()
    for section in ("How good it is", "What it does", "Training", "Settings"):
        assert f"<h2>{section}</h2>" in page
    assert "data:image/gif;base64," in page
    found = ControlRun(run)
    assert [e.env_steps for e in found.scores] == [0, 80, 160, 240]
    assert (
        f"{found.last.mean:.1f} on average over 2 episodes, where random actions reach {found.random.mean:.1f}" in page
    )
    assert not re.search(r'(src|href)="(http|//)', page)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "Computed on cpu with precision 32." in page


def test_the_learning_curve_is_a_picture_of_its_own(run, three):
    for place in (run, three, three / "seeds" / "seed-1"):
        with Image.open(place / "learning_curve.png") as picture:
            assert picture.format == "PNG" and picture.width > 2 * picture.height > 1000


def test_quartiles_of_every_evaluation_are_kept(run):
    found = ControlRun(run)
    for low, high in (evaluation.quartiles for evaluation in found.scores):
        assert 0 <= low <= high <= 80
    returns = json.loads((run / "results.json").read_text())["returns"]
    assert found.last.quartiles == tuple(np.quantile(returns, (0.25, 0.75)))


def test_a_damaged_agent_is_told_with_the_other_one(run, surnia, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    for name, other, words in (("best.zip", "--which last", []), ("agent.zip", "--which best", ["--which", "last"])):
        (copy / name).write_bytes((run / name).read_bytes()[:-100])
        code, _, err = surnia("control", "evaluate", str(copy), *words)
        assert code == 4 and f"copy/{name} is damaged" in err and err.count("\n") == 1
        assert f"may be whole: {other} takes it" in err
        shutil.copy(run / name, copy / name)
    (copy / "best.zip").write_bytes(b"")
    (copy / "agent.zip").unlink()
    code, _, err = surnia("control", "evaluate", str(copy))
    assert code == 4 and "--which" not in err


def test_random_actions_play_the_episodes_of_the_evaluation(run, surnia, tmp_path):
    code, out, _ = surnia("control", "evaluate", str(run), "--random", "--json", str(tmp_path / "r.json"))
    assert code == 0
    kept = json.loads((run / "random.json").read_text())
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["returns"]["random actions"] == kept["returns"]
    assert written["seed"] == kept["seed"] == 12_345
    assert "random actions" in out


def test_evaluate_repeats_the_last_evaluation(run, surnia, tmp_path):
    file = tmp_path / "e.json"
    code, out, _ = surnia("control", "evaluate", str(run), "--which", "last", "--json", str(file))
    assert code == 0
    assert json.loads(file.read_text())["returns"]["run"] == json.loads((run / "results.json").read_text())["returns"]
    assert "The newest agent" in out and "mean score" in out and f"Wrote {file}" in out

    code, _, _ = surnia("control", "evaluate", str(run), "--episodes", "3", "--seed", "5", "--json", str(file),
                        "--overwrite")  # fmt: skip
    assert code == 0
    written = json.loads(file.read_text())
    assert (len(written["returns"]["run"]), written["seed"], written["episodes"]) == (3, 5, 3)


def test_episodes_of_the_training_are_no_evaluation(run, surnia):
    code, _, err = surnia("control", "evaluate", str(run), "--seed", "0")
    assert code == 2 and "is what the agent was trained with" in err


def test_a_clip_and_frames(run, surnia, tmp_path):
    clip, frames = tmp_path / "clip.gif", tmp_path / "frames"
    code, out, _ = surnia("control", "record", str(run), "--episodes", "2", "--out", str(clip), "--frames", str(frames),
                          "--count", "30")  # fmt: skip
    assert code == 0
    assert f"Wrote {clip}, the best of 2 episodes" in out and f"Wrote 30 frames to {frames}" in out
    with Image.open(clip) as moving:
        assert moving.n_frames > 5
    files = sorted(frames.iterdir())
    assert len(files) == 30
    first = np.asarray(Image.open(files[0]))
    assert first.shape == (16, 16) and first.dtype == np.uint8

    labelled = tmp_path / "labelled"
    code, _, _ = surnia("control", "record", str(run), "--random", "--frames", str(labelled), "--count", "30",
                        "--by-reward")  # fmt: skip
    assert code == 0
    assert {place.name for place in labelled.iterdir()} == {"rewarded", "unrewarded"}


def test_an_encoder_is_a_backbone(run, surnia, tmp_path):
    file = tmp_path / "encoder.safetensors"
    code, out, _ = surnia("control", "export", str(run), "--out", str(file))
    assert (code, f"Wrote {file}" in out) == (0, True)
    loaded = load_backbone(file)
    # The frames are gray, and a stack of one picture twice has the features of the picture.
    assert (loaded.in_channels, loaded.stack) == (1, 1)
    picture = torch.rand(3, 1, 14, 14)
    encoder = load_agent(run).critic.encoder
    torch.testing.assert_close(loaded.backbone(picture), encoder(picture.repeat(1, 2, 1, 1)), rtol=1e-4, atol=1e-5)


def test_it_learns_on(surnia, tmp_path):
    place = train(tmp_path, steps=80)
    code, out, _ = surnia("control", "resume", str(place), "--steps", "160")
    assert code == 0
    assert "After 160 environment steps" in out
    assert [line["step"] for line in read_metrics(place) if "eval/mean_reward" in line] == [0, 80, 160]
    code, out, _ = surnia("control", "resume", str(place))
    assert code == 0
    assert "The run was finished already" in out


def test_how_long_it_is_to_learn_on_outlasts_an_interruption(surnia, tmp_path, monkeypatch):
    place = train(tmp_path, steps=80)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(control_train, "control_train", killed)
        assert surnia("control", "resume", str(place), "--steps", "160")[0] != 0
    code, out, _ = surnia("control", "resume", str(place))
    assert code == 0
    assert "After 160 environment steps" in out and f"surnia control resume {place} --steps 320" in out


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_steps_that_were_taken_stay(run, surnia, words):
    before = (run / "recipe.yaml").read_text()
    code, _, err = surnia("control", "train", "--resume", str(run), "--steps", "160", *words)
    assert code == 2
    assert err.endswith(
        f"steps: {run} has taken 240 environment steps already, and cannot end at 160; give 240 or more\n"
    )
    assert (run / "recipe.yaml").read_text() == before


def test_a_dry_run_of_a_run_that_goes_on_counts_what_is_left(run, surnia):
    code, out, _ = surnia("control", "train", "--resume", str(run), "--steps", "1000", "--dry-run")
    assert code == 0
    repeat = ControlRun(run).recipe.env.action_repeat
    assert f"760 of the environment, {1000 // repeat - 240 // repeat} of the agent" in out
    assert "time for the rest" in out


def test_a_dry_run_writes_nothing(surnia, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(dump(small_recipe(steps=100_000, seeds=3)))
    code, out, _ = surnia("control", "train", "small.yaml", "--dry-run")
    assert code == 0
    for words in ("2 x 16 x 16, of which the networks see 14 x 14", "100,000 of the environment", "of 3 seeds"):
        assert words in out
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


BOUNDLESS = """
import gymnasium, numpy
from rl.envs import PixelReach
class Boundless(PixelReach):
    def __init__(self, **options):
        super().__init__(**options)
        self.action_space = gymnasium.spaces.Box(-numpy.inf, numpy.inf, (2,), numpy.float32)
gymnasium.register("Boundless-v0", entry_point=Boundless)
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env.name", "surnia/PixelReech-v0"], "could not be made"),
        (["--env.name", "CartPole-v1", "--env.options", "{}"], "soft actor-critic needs continuous ones"),
        (["--env.name", "my_arena:Boundless-v0"], "has actions without bounds, Box(-inf, inf, (2,), float32)"),
        (["--agent.storage", "cuda"], "frames cannot be kept on cuda, of 0 CUDA devices here"),
        (["--agent.image_size", "40"], "image_size=40 is larger than the frames, 16 x 16"),
    ],
)
def test_a_start_that_fails_leaves_nothing(surnia, tmp_path, monkeypatch, words, said):
    (tmp_path / "my_arena.py").write_text(BOUNDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (tmp_path / "small.yaml").write_text(dump(small_recipe()))
    code, _, err = surnia("control", "train", str(tmp_path / "small.yaml"), "--run", str(tmp_path / "run"), *words)
    assert code == 2
    assert said in err and "Traceback" not in err and "unexpected" not in err
    assert not (tmp_path / "run").exists()


# --- several seeds ---------------------------------------------------------------------------------------------------


def test_seeds_are_summarised(three, surnia):
    page = (three / "report.html").read_text()
    assert "the interquartile mean of 3 seeds is" in page
    for seed in range(3):
        assert f'href="seeds/seed-{seed}/report.html"' in page
        assert (three / "seeds" / f"seed-{seed}" / "report.html").is_file()
    assert ControlRun(three / "seeds" / "seed-2").recipe.seed == 2
    code, out, _ = surnia("control", "evaluate", str(three))
    assert code == 0
    assert "seed-0" in out and "interquartile mean of 3 seeds" in out


def test_a_recording_is_of_the_best_seed(three):
    means = {place.name: ControlRun(place).last.mean for place in (three / "seeds").glob("seed-?")}
    assert means[best_run(three).name] == max(means.values())
