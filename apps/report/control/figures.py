"""The figures of control reports. Each takes plain numbers and returns a matplotlib figure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from apps.report.figures import INK, MARK, SOFT, WARM, tidy

METHOD_COLOURS = (WARM, "#7d5ba6", "#c9a227", "#3f72af")
APART = 0.055
"""Least distance of two labels, as a share of the axis."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class PlottedCurve:
    """Scores against environment steps.

    Attributes:
        middle: (environment steps, score), the line.
        low, high: of the band around it, at the same steps; empty: none.
        name: for the legend.
        seeds: a thin line for each seed.
    """

    middle: Points
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    name: str = ""
    seeds: Sequence[Points] = field(default=())


@dataclass(frozen=True)
class Level:
    """A score to compare with, drawn across: a random policy's, or a published one at some number of steps."""

    score: float
    name: str
    colour: str = SOFT


def learning_curve(curve: PlottedCurve, levels: Sequence[Level] = (), *, best_possible: float | None = None) -> Figure:
    """The score against environment steps, with levels to compare with named at the right edge."""
    figure = Figure(figsize=(9.4, 4.2), layout="constrained")
    axes = tidy(figure.add_subplot())
    for line in curve.seeds:
        axes.plot(*_columns(line), color=MARK, linewidth=0.8, alpha=0.45)
    xs, ys = _columns(curve.middle)
    if len(curve.low):
        axes.fill_between(xs, curve.low, curve.high, color=MARK, alpha=0.16, linewidth=0)
    axes.plot(xs, ys, color=MARK, linewidth=2.2, marker="o", markersize=4, label=curve.name)
    for level in levels:
        axes.axhline(level.score, color=level.colour, linewidth=1.2, linestyle=(0, (5, 3)))
    _limits(axes, curve, [level.score for level in levels], best_possible)
    _name_at_the_right(axes, levels)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("environment steps", fontsize=10, color=INK)
    axes.set_ylabel("score of an episode", fontsize=10, color=INK)
    if curve.name:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 1.1))
    return figure


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _limits(axes: Axes, curve: PlottedCurve, levels: Sequence[float], best_possible: float | None) -> None:
    values = [y for line in (curve.middle, *curve.seeds) for _, y in line] + [*levels, *curve.low, *curve.high]
    low, high = min([0.0, *values]), max([*values, best_possible or 0.0], default=1.0)
    room = 0.06 * (high - low or 1.0)
    axes.set_ylim(low - room * (low < 0), high + room)
    xs = [x for line in (curve.middle, *curve.seeds) for x, _ in line]
    axes.set_xlim(0, max(xs, default=1) * 1.02 or 1)


def _name_at_the_right(axes: Axes, levels: Sequence[Level]) -> None:
    """Beside the axes, moved apart where two levels are close."""
    low, high = axes.get_ylim()
    shares = [(level.score - low) / (high - low) for level in levels]
    for level, place in zip(levels, apart(shares, APART), strict=True):
        axes.annotate(
            level.name, (1.012, place), xycoords="axes fraction", fontsize=9, color=level.colour, va="center",
            annotation_clip=False,
        )  # fmt: skip


def apart(places: Sequence[float], least: float) -> list[float]:
    """The same places, in the same order, moved up where one would be nearer than `least` to the one below it."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + least)
    return moved
