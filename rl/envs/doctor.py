"""What `surnia doctor` says about environments. Imports none of the packages it looks for."""

from importlib import metadata

from rl.envs.rendering import renderer

# Pairs of dm-control and mujoco that were seen to load and draw; pip accepts others that crash.
WORKING_PAIRS = (("1.0.50", "3.17.0"), ("1.0.34", "3.3.7"))

_PARTS = (
    ("stable-baselines3", "the agent", "surnia[control]"),
    ("gymnasium", "the environments", "surnia[control]"),
    ("av", "clips", "surnia[control]"),
    ("dm-control", "the tasks of dm_control", "surnia[dmc]"),
    ("mujoco", "the tasks of dm_control", "surnia[dmc]"),
)


def doctor_lines() -> list[str]:
    """One fact a line: which packages of control are here, whether dm_control and mujoco fit, what draws."""
    lines = [_line(*part) for part in _PARTS]
    pair = _version("dm-control"), _version("mujoco")
    if None not in pair:
        lines.append(_pair_line(*pair))
    if pair[1] is not None:
        lines.append(renderer())
    return lines


def _line(package: str, purpose: str, extra: str) -> str:
    version = _version(package)
    return f"{package} {version}" if version else f"{package} is missing ({purpose}): pip install '{extra}'"


def _pair_line(dm_control: str | None, mujoco: str | None) -> str:
    here = f"dm-control {dm_control} with mujoco {mujoco}"
    if (dm_control, mujoco) in WORKING_PAIRS:
        return f"{here} is a pair that was seen working"
    best = "dm-control=={} mujoco=={}".format(*WORKING_PAIRS[0])
    return f"{here} is a pair that was never tried; should it fail: pip install {best}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
