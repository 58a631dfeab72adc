"""What a replay buffer of frame stacks takes, and how fast it gives batches, beside stable-baselines3's.

    python benchmarks/control_memory.py                    # 3 stacked frames of 3 x 100 x 100; under a minute, 1.2 GB
    python benchmarks/control_memory.py --json result.json --threads 1

Memory is the sum of the arrays' `nbytes` for 100 000 transitions: ours are made (the system hands out their pages only
when they are written to), stable-baselines3's are made for a hundredth and multiplied. For speed both are filled with
the same transitions and asked in turn within one process, so that whatever else the machine does disturbs both alike.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from alternate import Forms, hardware, measure, table
from gymnasium import spaces
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from rl.replay.buffer import FrameReplayBuffer
from rl.replay.memory import available_bytes

ACTION = spaces.Box(-1, 1, (6,), np.float32)
PAPER = (9, 100, 100)  # Laskin et al. 2020: 3 frames of 3 x 100 x 100, cropped to 84 later
TRANSITIONS, LIMIT = 100_000, 1.05
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def pixels(shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def memory_rows() -> list[dict]:
    """Bytes of 100 000 transitions of the paper's size, and times what one frame a transition takes."""
    frames = TRANSITIONS * 3 * 100 * 100
    ours = FrameReplayBuffer(TRANSITIONS, pixels(PAPER), ACTION, "cpu", stack=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it would not fit, perhaps
        theirs = ReplayBuffer(TRANSITIONS // 100, pixels(PAPER), ACTION, "cpu")
    whole = 100 * sum(getattr(theirs, name).nbytes for name in _ARRAYS)
    if ours.nbytes > LIMIT * frames:
        raise SystemExit(f"{ours.nbytes / frames:.3f} times the frames: more than {LIMIT}")
    return [
        {"buffer": "FrameReplayBuffer", "bytes": ours.nbytes, "times_frames": ours.nbytes / frames},
        {"buffer": "ReplayBuffer of stable-baselines3", "bytes": whole, "times_frames": whole / frames},
    ]


def steps(shape: tuple[int, ...], stack: int, episode: int, count: int, distinct: int = 64):
    """Transitions of one environment, with frames of noise drawn from a few, in episodes of the same length."""
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(distinct, shape[0] // stack, *shape[1:]), dtype=np.uint8)
    action, frames = np.zeros((1, 6), np.float32), None
    for t in range(count):
        if t % episode == 0:
            frames = [noise[rng.integers(distinct)]] * stack
        obs = np.concatenate(frames)[None]
        frames = [*frames[1:], noise[rng.integers(distinct)]]
        last = (t + 1) % episode == 0
        yield obs, np.concatenate(frames)[None], action, np.ones(1), np.array([last]), [{"TimeLimit.truncated": last}]


def episode_rows(count: int = 20_000) -> list[dict]:
    """Frames that are really stored a transition after twice `count` transitions, by the length of the episodes."""
    rows = []
    for episode in (1000, 125, 40, 20, 10, 5):
        buffer = FrameReplayBuffer(count, pixels((3, 4, 4)), ACTION, "cpu", stack=3)
        for step in steps((3, 4, 4), 3, episode, 2 * count):
            buffer.add(*step)
        rows.append({"episode": episode, "used": buffer.pool.used / count, "room": buffer.pool.capacity / count})
    return rows


def speed_forms(count: int, batch: int, n_steps: int) -> tuple[Forms, Forms]:
    """Drawing a batch, and storing a transition. The first form is ours."""
    ours = FrameReplayBuffer(count, pixels(PAPER), ACTION, "cpu", stack=3, n_steps=n_steps, seed=0)
    options = {"n_steps": n_steps} if n_steps > 1 else {}
    theirs = (NStepReplayBuffer if n_steps > 1 else ReplayBuffer)(count, pixels(PAPER), ACTION, "cpu", **options)
    for step in steps(PAPER, 3, 125, count):
        ours.add(*step), theirs.add(*step)
    again = [list(steps(PAPER, 3, 125, 125)) for _ in range(2)]
    turns = [0, 0]

    def store(number: int, buffer: ReplayBuffer) -> None:
        buffer.add(*again[number][turns[number] % 125])
        turns[number] += 1

    names = "FrameReplayBuffer", type(theirs).__name__ + " of stable-baselines3"
    draw = {names[0]: lambda: ours.sample(batch), names[1]: lambda: theirs.sample(batch)}
    return draw, {names[0]: lambda: store(0, ours), names[1]: lambda: store(1, theirs)}


def save_rows(count: int) -> list[dict]:
    """Seconds and bytes that a first save writes, and one after a tenth more transitions."""
    buffer, rows = FrameReplayBuffer(count, pixels(PAPER), ACTION, "cpu", stack=3, seed=0), []
    stream = steps(PAPER, 3, 125, count + count // 10)
    with tempfile.TemporaryDirectory() as folder:
        for name, more in ("first", count), ("after a tenth more", count // 10):
            for _ in range(more):
                buffer.add(*next(stream))
            start = time.perf_counter()
            saved = buffer.save_to(Path(folder) / name)
            spent = time.perf_counter() - start
            new = sum(path.stat().st_size for path in saved.iterdir() if path.stat().st_nlink == 1)
            rows.append({"save": name, "seconds": spent, "written": new, "held": buffer.pool.used * 30_000})
    return rows


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--transitions", type=int, default=5000, help="held while speed is measured")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--json", help="write the numbers to this file")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    needed, free = options.transitions * 2.2e5, available_bytes()
    if free is not None and needed > free:
        raise SystemExit(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free: give fewer --transitions")

    print(f"## Replay: {hardware(device)}, {os.cpu_count()} cores\n")
    report: dict[str, list[dict]] = {"memory": memory_rows(), "episodes": episode_rows()}
    print("### 100 000 transitions of 3 stacked frames of 3 x 100 x 100\n")
    print("| buffer | GB | times the frames |\n|---|---|---|")
    for row in report["memory"]:
        print(f"| {row['buffer']} | {row['bytes'] / 1e9:.2f} | {row['times_frames']:.3f} |")
    print("\n### Frames a transition\n\n| steps an episode | stored | room |\n|---|---|---|")
    for row in report["episodes"]:
        print(f"| {row['episode']} | {row['used']:.4f} | {row['room']:.4f} |")
    print()
    for n_steps in (1, 3):
        draw, store = speed_forms(options.transitions, options.batch, n_steps)
        title = f"A batch of {options.batch}, {n_steps}-step returns"
        report[title] = measure(draw, rounds=options.rounds, calls=5, device=device)
        print(table(title, report[title]))
        if n_steps == 1:
            report["A transition stored"] = measure(store, rounds=options.rounds, calls=25, device=device)
            print(table("A transition stored", report["A transition stored"]))
    report["save"] = save_rows(options.transitions)
    print("### Saving\n\n| save | s | MB written | MB of frames held |\n|---|---|---|---|")
    for row in report["save"]:
        print(f"| {row['save']} | {row['seconds']:.2f} | {row['written'] / 1e6:.0f} | {row['held'] / 1e6:.0f} |")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
