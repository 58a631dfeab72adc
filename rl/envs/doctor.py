"""What `surnia doctor` says about environments. Imports none of the packages it looks for."""

import os
import subprocess
import sys
from importlib import metadata

from rl.envs.rendering import chosen_by_the_user, drawing_environment, renderer

# Seen to load and draw; pip accepts others that crash.
WORKING_PAIR = "dm-control==1.0.50 mujoco==3.17.0"

_PARTS = (
    ("stable-baselines3", "the agent", "surnia[control]"),
    ("gymnasium", "the environments", "surnia[control]"),
    ("av", "clips", "surnia[control]"),
    ("dm-control", "the tasks of dm_control", "surnia[dmc]"),
    ("mujoco", "the tasks of dm_control", "surnia[dmc]"),
)

_LOAD = """
from dm_control import suite
env = suite.load("cartpole", "swingup")
env.reset()
"""
_DRAW = """
env.physics.render(16, 16)
env.physics.free()
"""
_TRIAL_SECONDS = 120.0  # to import them on a busy machine


def doctor_lines() -> list[str]:
    """One fact a line: which packages of control are here, whether dm_control and mujoco work together, what draws."""
    lines = [_line(*part) for part in _PARTS]
    dm_control, mujoco = _version("dm-control"), _version("mujoco")
    if dm_control is not None and mujoco is not None:
        lines.append(f"dm-control {dm_control} with mujoco {mujoco} {try_dm_control()}")
    if mujoco is not None:
        lines.append(renderer())
    return lines


def try_dm_control(seconds: float = _TRIAL_SECONDS) -> str:
    """Whether dm_control loads a task and draws it, as the end of a sentence.

    Versions do not tell, for pip accepts pairs that crash; so it is tried, in a process of its own, which may die.
    """
    try:
        drawing = _run(_LOAD + _DRAW, drawing_environment(), seconds)
        if drawing.returncode == 0:
            return "loads a task and draws it"
        # Whatever draws is loaded first of all, so that only without it is it known what is wrong.
        loading = _run(_LOAD, {**os.environ, "MUJOCO_GL": "disable"}, seconds)
    except subprocess.TimeoutExpired:
        return f"did not draw a task within {seconds:g} seconds"
    if loading.returncode == 0:
        given = chosen_by_the_user()
        remedy = "" if given is None else f": unset MUJOCO_GL, which is {given}, and Surnia chooses"
        return f"loads a task but cannot draw it ({_reason(drawing)}){remedy}"
    return f"cannot load a task ({_reason(loading)}): pip install {WORKING_PAIR}"


def _run(program: str, environment: dict[str, str], seconds: float) -> "subprocess.CompletedProcess[str]":
    # -P: what happens to lie in the working directory is not imported.
    return subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, errors="replace",
        timeout=seconds, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """The last words of a process that failed."""
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return said[-1][:300] if said else f"exit code {done.returncode}"


def _line(package: str, purpose: str, extra: str) -> str:
    version = _version(package)
    return f"{package} {version}" if version else f"{package} is missing ({purpose}): pip install '{extra}'"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
