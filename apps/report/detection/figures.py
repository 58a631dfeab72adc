"""The figures of detection reports. Each takes plain numbers and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apps.report.figures import INK, MARK, SOFT, WARM, tidy
from detection.evaluation.calibration import Calibration
from detection.structures import FIRST_KNOWN, UNKNOWN
from detection.visualize import PALETTE, colour

Floats = npt.NDArray[np.float64]
Line = tuple[str, Sequence[float] | Floats, Sequence[float] | Floats, str]  # name, x, y, colour
KNOWN_COLOUR, UNKNOWN_COLOUR = MARK, WARM
KIND_COLOURS = {
    "unknown": WARM, "old": "#7d5ba6", "current": MARK, "distractor": "#c9a227", "background": "#d5dbe2",
}  # fmt: skip
_MARKERS = "os^D"
FEW = 20
"""Objects in a bin below which the share that came true says little."""


def lines(
    drawn: Sequence[Line],
    *,
    x: str,
    y: str,
    breaks: Sequence[tuple[float, str]] = (),
    limits: tuple[float, float] | None = None,
    size: tuple[float, float] = (4.8, 2.9),
) -> Figure:
    """Several lines with a legend; `breaks` are places along x with a name, as the beginnings of stages."""
    figure = Figure(figsize=size, layout="constrained")
    axes = tidy(figure.add_subplot())
    for name, xs, ys, drawn_in in drawn:
        axes.plot(xs, ys, color=drawn_in, linewidth=1.7, label=name)
    for place, name in breaks:
        axes.axvline(place, color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
        axes.annotate(
            name, (place, 1), xycoords=("data", "axes fraction"), xytext=(3, -2), textcoords="offset points",
            fontsize=8, color=SOFT, va="top", rotation=90,
        )  # fmt: skip
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    if limits:
        axes.set_ylim(*limits)
    else:
        axes.margins(y=0.14)
    if len(drawn) > 1:
        axes.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def energies(fit: Mapping[str, Any], test: Mapping[str, Floats] | None, *, x: str) -> Figure:
    """Above what the decision was fitted on, with both densities; below regions of the test images by what they show.

    Args:
        fit: `samples`, perhaps `curves`, and the `threshold`; see `detection.training.fitting`.
        test: values by "known", "unknown", "distractor" and "background"; None leaves the lower half out.
        x: what the values are.
    """
    figure = Figure(figsize=(4.8, 4.4 if test else 2.7), layout="constrained")
    panels = figure.subplots(2 if test else 1, 1, sharex=True, squeeze=False)[:, 0]
    samples = {name: np.asarray(values, dtype=np.float64) for name, values in fit["samples"].items()}
    bins = _bins([*samples.values(), *(test or {}).values()])
    above = tidy(panels[0])
    for name, drawn_in in (("known", KNOWN_COLOUR), ("unknown", UNKNOWN_COLOUR)):
        what = "known objects" if name == "known" else "taken for unknown"
        if len(samples[name]):
            above.hist(samples[name], bins=bins, density=True, color=drawn_in, alpha=0.35, label=what)
        density = (fit.get("curves") or {}).get(f"{name}_density")
        if density is not None:
            above.plot(fit["curves"]["energies"], density, color=drawn_in, linewidth=1.7)
    _title(above, "validation: what the decision was fitted on")
    if test:
        below = tidy(panels[1])
        styles = (
            ("known", "known objects", KNOWN_COLOUR, "-"), ("unknown", "unknown objects", UNKNOWN_COLOUR, "-"),
            ("distractor", "distractors", "#c9a227", "-"), ("background", "background", SOFT, (0, (3, 2))),
        )  # fmt: skip
        for name, what, drawn_in, style in styles:
            if len(test[name]):
                below.hist(
                    test[name], bins=bins, density=True, histtype="step", color=drawn_in, linestyle=style,
                    linewidth=1.6, label=what,
                )  # fmt: skip
        _title(below, "test: what is really there")
    for axes in panels:
        axes.set_xlim(bins[0], bins[-1])
        axes.set_yticks([])
        axes.set_ylabel("density", fontsize=9, color=INK)
        if fit.get("threshold") is not None:
            axes.axvline(fit["threshold"], color=INK, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.margins(y=0.08)
        place = "upper left" if fit["score"] == "energy" else "upper right"  # where there are fewest values
        axes.legend(frameon=False, fontsize=8, handlelength=1.4, loc=place)
    panels[-1].set_xlabel(x, fontsize=10, color=INK)
    return figure


def _bins(values: Sequence[Floats]) -> list[float]:
    """Edges that all histograms share; a few extreme values do not squeeze the rest."""
    together = np.concatenate([v[np.isfinite(v)] for v in values if len(v)] or [np.zeros(1)])
    low, high = np.quantile(together, [0.002, 0.998])
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, 46).tolist()


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, color=INK, loc="left", pad=4)


def reliability(found: Calibration) -> Figure:
    """Said probability against what came true, and below how frequently each was said."""
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    tidy(above), tidy(below)
    above.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (5, 3)))
    firm, weak = found.count >= FEW, (found.count > 0) & (found.count < FEW)
    above.plot(found.probability[firm], found.share[firm], color=MARK, marker="o", linewidth=1.6, markersize=5)
    above.plot(found.probability[weak], found.share[weak], "o", markerfacecolor="none", color=SOFT, markersize=5)
    above.set_ylim(-0.03, 1.03)
    above.set_ylabel("share unknown", fontsize=9, color=INK)
    edges = np.linspace(0, 1, len(found.count) + 1)
    below.bar(edges[:-1], found.count, width=np.diff(edges) * 0.92, align="edge", color=SOFT)
    below.set_ylabel("objects", fontsize=9, color=INK)
    below.set_xlabel("posterior of being unknown", fontsize=10, color=INK)
    below.set_xlim(0, 1)
    return figure


def stacked(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Figure:
    """A bar for each row, of shares that add up to 1, those above 4 % written into it."""
    figure = Figure(figsize=(9.4, 0.8 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=9)
    for place, (_, shares) in enumerate(rows):
        left = 0.0
        for kind, drawn_in in KIND_COLOURS.items():
            share = shares[kind]
            axes.barh(place, share, left=left, color=drawn_in, height=0.7, label=kind if place == 0 else None)
            if share >= 0.04:
                ink = INK if kind in ("background", "distractor") else "#ffffff"
                axes.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink)
            left += share
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.legend(frameon=False, fontsize=9, ncols=5, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.1)
    return figure


def feature_map(
    points: Floats, labels: npt.NDArray[np.int64], names: Sequence[str], stars: Mapping[int, Floats]
) -> Figure:
    """Known objects as dots in the colour of their class, unknown ones hollow, prototypes as stars.

    Args:
        points: (n, 2).
        labels: (n,) of the label space.
        names: of the label space.
        stars: place of the prototype of each label that has one.
    """
    figure = Figure(figsize=(9.6, 5.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#dde3ea")
    hollow = labels == UNKNOWN
    x, y = points[:, 0], points[:, 1]
    axes.scatter(
        x[hollow], y[hollow], s=20, facecolors="none", edgecolors="#5b6675", linewidths=0.9, label="unknown object"
    )
    for label in range(FIRST_KNOWN, len(names)):
        of_class = labels == label
        marker = _MARKERS[(label - FIRST_KNOWN) // len(PALETTE) % len(_MARKERS)]
        axes.scatter(
            x[of_class], y[of_class], s=20, marker=marker, color=colour(label), edgecolors="#ffffff", linewidths=0.4,
            label=names[label],
        )  # fmt: skip
    for label, place in stars.items():
        fill = "#ffffff" if label == UNKNOWN else colour(label)
        axes.scatter(place[0], place[1], marker="*", s=230, color=fill, edgecolors=INK, linewidths=1.1, zorder=3)
    if stars:
        axes.scatter([], [], marker="*", s=120, color="#ffffff", edgecolors=INK, label="prototype")
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + (len(names) > 26))
    return figure
