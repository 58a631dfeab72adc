import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from support.replays import MadeUpEnvs, everything, fill, frame_buffer

from rl.replay import memory
from sslcore.errors import ConfigError


@pytest.mark.parametrize(("n_envs", "stack", "shape"), [(1, 3, (9, 20, 20)), (4, 2, (2, 5, 7)), (3, 1, (3, 8, 8))])
def test_what_is_announced_is_what_is_taken(n_envs, stack, shape):
    buffer = frame_buffer(101, shape, stack, n_envs, action=spaces.Box(-1, 1, (3,), np.float64))
    announced = memory.required_bytes(101, shape, stack=stack, action_bytes=3 * 4, n_envs=n_envs)
    assert buffer.nbytes == announced


def test_a_hundred_thousand_transitions_of_the_papers_size_take_at_most_five_percent_more_than_their_frames():
    needed = memory.required_bytes(100_000, (9, 100, 100), stack=3, action_bytes=24)
    assert 3.0e9 < needed < 1.05 * 3.0e9


def test_memory_is_announced_and_taken_for_the_transitions_that_come_and_grows_if_more_do(tmp_path):
    short, whole = (frame_buffer(1000, (2, 4, 4), 2, 2, expected=n) for n in (100, None))
    assert short.memory.startswith("a replay buffer of 100 transitions with frames of 1 x 4 x 4 bytes takes ")
    assert whole.memory.startswith("a replay buffer of 1,000 transitions ")
    assert short.pool.nbytes < whole.pool.nbytes / 8 and short.buffer_size == whole.buffer_size == 500
    for buffer in (short, whole):
        fill(buffer, MadeUpEnvs(np.random.default_rng(0), 2, stack=2, side=4), 200)
    assert all(map(torch.equal, everything(short)[:5], everything(whole)[:5]))
    short.save_to(tmp_path / "short")
    whole.restore_from(tmp_path / "short")
    assert all(map(torch.equal, short.sample(9)[:5], whole.sample(9)[:5]))
    with pytest.raises(ConfigError, match="expected must be at least 1, not 0"):
        frame_buffer(1000, (2, 4, 4), 2, 2, expected=0)


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1_000_000)
    with pytest.raises(ConfigError) as caught:
        frame_buffer(1000, (9, 20, 20), 3)
    text = str(caught.value)
    assert "1,000 transitions with frames of 3 x 20 x 20" in text and "1.00 MB free" in text and "image" in text
    suggested = int(text.split("lower buffer_size to ")[1].split(" ")[0].replace(",", ""))
    assert 500 < suggested < 1000
    frame_buffer(suggested, (9, 20, 20), 3)


def test_where_the_system_does_not_tell_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    assert frame_buffer(100, (9, 20, 20), 3).memory.endswith("on cpu")


def test_frames_go_where_training_is_if_they_leave_room_there(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    assert memory.choose_storage(500, "cuda:0") == "cuda:0"
    assert memory.choose_storage(700, "cuda:0") == "cpu"
    assert memory.choose_storage(500, "cpu") == "cpu"


def test_a_containers_limit_counts_and_its_file_cache_does_not(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 250\nactive_file 50\n")
    assert memory._group_bytes(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._group_bytes(tmp_path) is None
    assert memory._group_bytes(tmp_path / "missing") is None


def test_a_dry_run_can_ask_without_torch_or_numpy():
    code = "import sys, rl.replay.memory; sys.exit(bool({'torch', 'numpy', 'gymnasium'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
