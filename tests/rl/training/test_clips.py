import contextlib
import importlib.util

import numpy as np
import pytest
from PIL import Image, ImageSequence

from rl.envs import EnvSettings, make_env, make_vec_env
from rl.training import clips
from rl.training.clips import record_clip, write_clip
from rl.training.evaluation import play
from rl.training.frames import record_frames
from sslcore.errors import ConfigError

SETTINGS = EnvSettings(options={"size": 16}, action_repeat=4)


def test_the_clip_shows_the_episode_that_was_evaluated(tmp_path, monkeypatch):
    draw, shown = np.random.default_rng(0), {}
    with contextlib.closing(make_vec_env(SETTINGS, 2)) as envs:
        played = play(lambda obs: draw.uniform(-1, 1, (2, 2)), envs, episodes=4, seed=7)
    monkeypatch.setattr(clips, "write_clip", lambda path, frames, **_: shown.update({path: frames}))
    episode = played.episodes[3]  # the second environment's second
    record_clip(SETTINGS, episode, tmp_path / "a.gif", seed=7)
    env = make_env(SETTINGS, seed=8, index=1)
    env.reset()
    env.reset()
    frames = [env.render()]
    score = 0.0
    for action in episode.actions:
        score += env.step(action)[1]
        frames.append(env.render())
    assert score == episode.score
    assert np.array_equal(shown[tmp_path / "a.gif"], frames) and len(frames) == 11


@pytest.mark.parametrize("form", ["gif", "mp4"])
def test_files_hold_the_pictures(tmp_path, form):
    if form == "mp4":
        pytest.importorskip("av")
    frames = [np.full((33, 48, 3), 60 * i, np.uint8) for i in range(4)]
    write_clip(tmp_path / f"clip.{form}", frames, frames_per_second=10)
    if form == "gif":
        with Image.open(tmp_path / "clip.gif") as clip:
            found = [np.asarray(frame.convert("RGB")).mean() for frame in ImageSequence.Iterator(clip)]
            assert clip.size == (48, 33) and clip.info["duration"] == 100
    else:
        import av

        with av.open(str(tmp_path / "clip.mp4")) as clip:
            assert float(clip.streams.video[0].average_rate) == 10 and clip.streams.video[0].height == 32
            found = [frame.to_ndarray(format="rgb24").mean() for frame in clip.decode(video=0)]
    assert np.allclose(found, [0, 60, 120, 180], atol=6)


def test_fast_pictures_are_thinned_out(tmp_path):
    frames = [np.full((16, 16, 3), i, np.uint8) for i in range(100)]
    write_clip(tmp_path / "clip.gif", frames, frames_per_second=100)
    with Image.open(tmp_path / "clip.gif") as clip:
        assert clip.n_frames == 34 and clip.info["duration"] == 30


def test_environments_that_do_not_draw_show_their_newest_frame():
    settings = EnvSettings(options={"size": 16}, stack=2)
    env = make_env(settings)
    observation, _ = env.reset(seed=0)
    observation, *_ = env.step(np.ones(2))
    env.unwrapped.render_mode = None
    picture = clips._picture(env, observation)
    assert picture.shape == (16, 16, 3) and np.array_equal(picture[..., 0], observation[1])


def test_what_cannot_be_made(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"gif or mp4, not 'avi'"):
        write_clip(tmp_path / "clip.avi", [], frames_per_second=10)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'surnia\[control\]'"):
        write_clip(tmp_path / "clip.mp4", [], frames_per_second=10)


# --- frames to pretrain on ---------------------------------------------------------------------------------------


def test_frames_are_what_an_agent_sees(tmp_path):
    record_frames(SETTINGS, tmp_path / "frames", count=14, seed=3)
    files = sorted((tmp_path / "frames").iterdir())
    env = make_env(SETTINGS, seed=3)
    assert len(files) == 14
    assert np.array_equal(np.asarray(Image.open(files[0])), env.reset()[0][-1])
    # An episode is its first frame and ten more.
    assert np.array_equal(np.asarray(Image.open(files[11])), env.reset()[0][-1])
    with pytest.raises(ConfigError, match="is not empty"):
        record_frames(SETTINGS, tmp_path / "frames", count=1, seed=3)


def test_frames_by_reward(tmp_path):
    class Still:
        def predict(self, observation):
            return np.zeros(2), None

    folder = record_frames(SETTINGS, tmp_path / "frames", count=40, seed=0, agent=Still(), by_reward=True)
    rewarded, unrewarded = (sorted((folder / name).iterdir()) for name in ("rewarded", "unrewarded"))
    assert len(rewarded) + len(unrewarded) == 40 and rewarded and unrewarded
    env, rewards = make_env(SETTINGS, seed=0), []
    for _ in range(4):
        env.reset()
        rewards += [env.step(np.zeros(2))[1] for _ in range(10)]
    assert [int(path.stem) for path in rewarded] == [i for i, reward in enumerate(rewards) if reward > 0]
