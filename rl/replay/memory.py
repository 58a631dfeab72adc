"""How much memory a replay buffer takes, known before any of it is taken.

Imports neither torch nor numpy: a dry run asks it too.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from sslcore.errors import ConfigError

STEPS_PER_EXTRA_FRAME = 32  # an episode of n steps has n + 1 frames; room is made for episodes of this length
_REFERENCE_BYTES = 4
_GPU_SHARE = 0.6  # of the free memory: the networks, their gradients and the batches need the rest


def frame_capacity(buffer_size: int, n_envs: int, stack: int) -> int:
    """Frames that room is made for at first: one a transition, one an episode, and those of a step in the making."""
    return buffer_size + buffer_size // STEPS_PER_EXTRA_FRAME + n_envs * (stack + 1)


def required_bytes(
    buffer_size: int, observation_shape: Sequence[int], *, stack: int, action_bytes: int = 4, n_envs: int = 1
) -> int:
    """Bytes of a `FrameReplayBuffer`.

    Args:
        buffer_size: transitions over all environments.
        observation_shape: (stack * channels, height, width) of the uint8 observations.
        stack: frames in an observation.
        action_bytes: of one action: 4 a dimension.
        n_envs: environments that are stepped together.

    Returns:
        Bytes, as long as episodes have at least 32 steps on average; each that is shorter takes a frame more.

    Example:
        >>> required_bytes(100_000, (9, 100, 100), stack=3) / (100_000 * 3 * 100 * 100)  # beside a frame a transition
        1.0327...
    """
    rows = max(buffer_size // n_envs, 1)
    capacity = frame_capacity(rows * n_envs, n_envs, stack)
    observation = math.prod(observation_shape)
    frames = capacity * (observation // stack + _REFERENCE_BYTES)
    # the frames' places, reward, done, time limit, end of the episode
    transitions = rows * n_envs * (_REFERENCE_BYTES * (stack + 1) + action_bytes + 4 + 4 + 4 + 1)
    return frames + transitions + n_envs * observation


def available_bytes(device: str = "cpu") -> int | None:
    """Bytes that can be taken now on "cpu" or a CUDA device; None where the system does not tell.

    Raises:
        ConfigError: there is no such CUDA device.
    """
    if device.startswith("cuda"):
        import torch

        count = torch.cuda.device_count()
        if (torch.device(device).index or 0) >= count:
            raise ConfigError(
                f"the replay buffer's frames cannot be kept on {device}, of {count} CUDA devices here: take "
                "storage_device cpu, in a recipe agent.storage"
            )
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    free = [value for value in (_system_bytes(), _group_bytes()) if value is not None]
    return min(free, default=None)


def choose_storage(needed: int, device: str) -> str:
    """Where frames go if nobody says: the GPU that trains, if they leave enough of it to the networks, else the CPU."""
    if not device.startswith("cuda"):
        return "cpu"
    free = available_bytes(device)
    return device if free is not None and needed <= _GPU_SHARE * free else "cpu"


def check_fits(needed: int, device: str, *, buffer_size: int, frame: Sequence[int]) -> str:
    """The sentence that says what the buffer will take.

    Args:
        needed: bytes, from `required_bytes`.
        device: "cpu" or a CUDA device.
        buffer_size: transitions over all environments.
        frame: (channels, height, width).

    Raises:
        ConfigError: there is not so much memory.
    """
    free = available_bytes(device)
    what = f"a replay buffer of {buffer_size:,} transitions with frames of {' x '.join(map(str, frame))} bytes"
    if free is not None and needed > free:
        per_transition = needed / buffer_size
        raise ConfigError(
            f"{what} takes {_gigabytes(needed)} but {device} has {_gigabytes(free)} free; "
            f"lower buffer_size to {int(0.9 * free / per_transition):,} or less, or the size of the image"
        )
    return f"{what} takes {_gigabytes(needed)} on {device}" + ("" if free is None else f", {_gigabytes(free)} are free")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _system_bytes() -> int | None:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_bytes(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container may still take; its file cache is given back on demand and does not count as taken."""
    limit, current = _lines(group / "memory.max"), _lines(group / "memory.current")
    if not limit or not current or limit[0] == "max":
        return None
    statistics = dict(line.split() for line in _lines(group / "memory.stat") if len(line.split()) == 2)
    cached = int(statistics.get("inactive_file", 0)) + int(statistics.get("active_file", 0))
    return max(int(limit[0]) - max(int(current[0]) - cached, 0), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
