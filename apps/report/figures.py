"""The figures of pretraining reports, and the look of all. Each takes plain numbers or images and returns a figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, MARK, WARM = "#1c2430", "#8a95a3", "#0b6e69", "#c2571a"


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, tidy(figure.add_subplot())


def tidy(axes: Axes) -> Axes:
    """The look of all axes: no frame, soft lines, readable figures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="y", color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    return axes


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


def embedding_map(points: np.ndarray, images: np.ndarray, *, columns: int = 44, rows: int = 28) -> Figure:
    """Pictures laid out by their embedding: in each cell of a grid, the one that lies nearest to its middle.

    Args:
        points: (n, 2), a projection of the embeddings.
        images: (n, 3, h, w) uint8, the picture of each point.
        columns, rows: of the grid.
    """
    low, high = points.min(0), points.max(0)
    cells = (points - low) / np.maximum(high - low, 1e-9) * (np.array([columns, rows]) - 1e-6)
    off_centre = np.square(cells % 1 - 0.5).sum(1)
    height, width = images.shape[2:]
    sheet = np.full((rows, columns, height, width, 3), 255, np.uint8)
    for i in np.argsort(-off_centre):  # the nearest is drawn last
        column, row = cells[i].astype(int)
        sheet[rows - 1 - row, column] = images[i].transpose(1, 2, 0)
    figure = Figure(figsize=(9.9, 9.9 * rows * height / (columns * width)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(sheet.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3), interpolation="antialiased")
    return figure


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
