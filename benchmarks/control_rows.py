"""What `control.py` compares: tasks, and rows that are measured on them."""

from dataclasses import dataclass
from typing import Literal

Anchor = Literal["random", "controller"]


@dataclass(frozen=True)
class Task:
    """What is learned, and how its rows are read.

    Attributes:
        title: as shown.
        recipe: of `configs/control`; rows change it.
        seeds: how many of each row, if nobody says.
        most: the highest return possible.
        wanted: steps to this return are counted; None: none are.
        minutes: that a seed may take on two cores.
    """

    title: str
    recipe: str
    seeds: int
    most: float
    wanted: float | None
    minutes: float


TASKS = {
    "pixelreach": Task("PixelReach", "pixelreach", seeds=5, most=40, wanted=30, minutes=2),
    "cartpole": Task(
        "dm_control cartpole-balance", "cartpole_balance_cpu", seeds=3, most=1000, wanted=None, minutes=30
    ),
}


@dataclass(frozen=True)
class Row:
    """A line of a task's table.

    Attributes:
        title: as shown.
        task: what is learned.
        changes: of the task's recipe, as on the command line.
        anchor: nothing is learned: actions by lot, or of a controller written by hand that reads the state.
    """

    title: str
    task: str
    changes: tuple[str, ...] = ()
    anchor: Anchor | None = None


ROWS = {
    "random": Row("random actions", "pixelreach", anchor="random"),
    "controller": Row("controller that reads the state", "pixelreach", anchor="controller"),
    "ours": Row("ours: curl, crop, stack 3", "pixelreach"),
    "aux_none": Row("aux none", "pixelreach", ("--agent.aux=none",)),
    "shift": Row("augmentation shift", "pixelreach", ("--agent.augmentation=shift",)),
    "augmentation_none": Row("augmentation none", "pixelreach", ("--agent.augmentation=none",)),
    "neither": Row("aux none, augmentation none", "pixelreach", ("--agent.aux=none", "--agent.augmentation=none")),
    "stack_1": Row("stack 1", "pixelreach", ("--env.stack=1",)),
    "faithful": Row("update faithful", "pixelreach", ("--agent.update=faithful",)),
    "cartpole_random": Row("random actions", "cartpole", anchor="random"),
    "cartpole": Row("ours", "cartpole"),
}
OURS = {"pixelreach": "ours", "cartpole": "cartpole"}
"""The row that a task's others are compared with."""
RANDOM = {"pixelreach": "random", "cartpole": "cartpole_random"}
