"""The figures of pretraining reports. Each takes plain numbers or images and returns a matplotlib figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, MARK, WARM = "#1c2430", "#8a95a3", "#0b6e69", "#c2571a"


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def curve(
    points: Sequence[tuple[float, float]],
    *,
    x: str,
    y: str,
    level: tuple[float, str] | None = None,
    marked: bool = False,
    bottom: float | None = None,
) -> Figure:
    """A line through (x, y) points, with a dashed level such as chance or the ideal, and its name."""
    figure, axes = _axes(4.8, 2.9)
    xs, ys = zip(*points, strict=True) if points else ([], [])
    axes.plot(xs, ys, color=MARK, linewidth=1.8, marker="o" if marked else None, markersize=4)
    if level is not None:
        axes.axhline(level[0], color=WARM, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.annotate(
            level[1], (1, level[0]), xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points",
            ha="right", fontsize=9, color=WARM,
        )  # fmt: skip
    axes.margins(y=0.14)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    return figure


def bars(groups: Sequence[str], series: Mapping[str, Sequence[float]], *, y: str) -> Figure:
    """Grouped bars with their values written on top."""
    figure, axes = _axes(9.4, 3.0)
    colours = [SOFT, "#c9a227", MARK, WARM]
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        positions = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        drawn = axes.bar(positions, values, width * 0.92, label=name, color=colours[i % len(colours)])
        axes.bar_label(drawn, fmt="%.2f", fontsize=9, padding=2, color=INK)
    axes.set_xticks(np.arange(len(groups)), groups)
    axes.set_ylabel(y, fontsize=10, color=INK)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=9, loc="upper left", ncols=len(series), bbox_to_anchor=(0, 1.16))
    return figure


def contact_sheet(images: np.ndarray, columns: int, *, zoom: float = 0.55) -> Figure:
    """(n, 3, h, w) uint8 images side by side, row by row."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * zoom, rows * zoom))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(_tiles(images, columns), interpolation="nearest")
    return figure


def neighbours(queries: np.ndarray, found: np.ndarray, right: np.ndarray, title: str, *, zoom: float = 0.5) -> Figure:
    """Each row: a query, then its nearest images; those of the query's class are framed.

    Args:
        queries: (q, 3, h, w) uint8.
        found: (q, k, 3, h, w) uint8.
        right: (q, k) whether a neighbour has the query's class.
    """
    count, k = found.shape[:2]
    figure = Figure(figsize=((k + 1.6) * zoom, (count + 0.7) * zoom))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, k + 1.6)
    axes.set_ylim(count, -0.7)
    axes.axis("off")
    axes.text(0.05, -0.2, title, fontsize=10, color=INK, fontweight="bold")
    for row in range(count):
        _place(axes, queries[row], 0, row, None)
        for column in range(k):
            _place(axes, found[row, column], column + 1.5, row, MARK if right[row, column] else "#d5dbe2")
    return figure


def embedding_map(points: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """(n, 2) points coloured by class; classes are named at the median of their points where there is room."""
    figure = Figure(figsize=(9.4, 6.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    palette = colormaps["turbo"](np.linspace(0.04, 0.96, len(classes)))
    # Neighbouring class numbers get distant colours.
    palette = palette[np.argsort((np.arange(len(classes)) * 13) % max(1, len(classes)), kind="stable")]
    axes.scatter(points[:, 0], points[:, 1], c=palette[labels], s=9, linewidths=0, alpha=0.8)
    for c, (x, y) in _apart(points, labels).items():
        axes.text(
            x, y, classes[c], fontsize=8.5, ha="center", va="center", color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.2},
        )  # fmt: skip
    return figure


def _apart(points: np.ndarray, labels: np.ndarray) -> dict[int, tuple[float, float]]:
    """Where to write the classes' names: the median of each, the most compact first, none on top of another."""
    width, height = np.ptp(points, axis=0)
    spread = {
        int(c): float(np.median(np.abs(points[labels == c] - np.median(points[labels == c], 0)))) for c in set(labels)
    }
    places: dict[int, tuple[float, float]] = {}
    for c in sorted(spread, key=lambda c: spread[c]):
        x, y = np.median(points[labels == c], axis=0)
        if all(abs(x - a) > 0.1 * width or abs(y - b) > 0.03 * height for a, b in places.values()):
            places[c] = (float(x), float(y))
    return places


def _place(axes: Axes, image: np.ndarray, x: float, y: float, frame: str | None) -> None:
    pad = 0.04
    axes.imshow(
        image.transpose(1, 2, 0), extent=(x + pad, x + 1 - pad, y + 1 - pad, y + pad), interpolation="nearest",
        aspect="auto",
    )  # fmt: skip
    if frame:
        axes.plot(
            [x + pad, x + 1 - pad, x + 1 - pad, x + pad, x + pad],
            [y + pad, y + pad, y + 1 - pad, y + 1 - pad, y + pad],
            color=frame, linewidth=2.2,
        )  # fmt: skip


def _tiles(images: np.ndarray, columns: int) -> np.ndarray:
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, channels, height + 2, width + 2), 255, np.uint8)
    sheet[:count, :, 1:-1, 1:-1] = images
    sheet = sheet.reshape(rows, columns, channels, height + 2, width + 2).transpose(0, 3, 1, 4, 2)
    return sheet.reshape(rows * (height + 2), columns * (width + 2), channels)
