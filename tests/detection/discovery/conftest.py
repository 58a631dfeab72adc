"""A folder of hand-made pictures and a detector that finds in them what was drawn there."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from detection.structures import UNKNOWN, Detections

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}


@dataclass
class Pictures:
    """Pictures 120 x 90 with coloured squares on grey.

    `predict` finds every square by its colour: red and green ones are unknown, blue ones are the known class 2.
    """

    folder: Path

    def paint(self, name: str, *squares: tuple[str, int, int, int], size: tuple[int, int] = (120, 90)) -> Path:
        """A picture with squares (colour, left, top, side)."""
        picture = Image.new("RGB", size, (128, 128, 128))
        pen = ImageDraw.Draw(picture)
        pen.point((len(list(self.folder.rglob("*"))), 0), fill=(0, 0, 0))  # no two pictures are the same file
        for colour, x, y, side in squares:
            pen.rectangle([x, y, x + side - 1, y + side - 1], fill=COLOURS[colour])
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        return path

    @staticmethod
    def predict(pictures: list[Image.Image]) -> list[Detections]:
        return [_squares(np.asarray(picture)) for picture in pictures]


def _squares(pixels: np.ndarray) -> Detections:
    boxes, labels, embeddings = [], [], []
    for k, (name, colour) in enumerate(COLOURS.items()):
        mask = (pixels == colour).all(axis=2)
        # Squares of one colour in a picture stand side by side with a gap between them.
        columns = np.flatnonzero(mask.any(axis=0))
        for run in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(columns) else []:
            rows = np.flatnonzero(mask[:, run].any(axis=1))
            boxes.append([run[0], rows[0], run[-1] + 1, rows[-1] + 1])
            labels.append(2 if name == "blue" else UNKNOWN)
            embeddings.append([10.0 * (k == i) + 0.01 * len(run) * (i == 3) for i in range(4)])
    count = len(boxes)
    scores = torch.tensor([min(0.99, (box[2] - box[0]) / 50) for box in boxes])
    order = scores.argsort(descending=True, stable=True)
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(count, 4),
        torch.tensor(labels, dtype=torch.int64),
        scores,
        torch.full((count,), -3.0),
        torch.full((count,), 0.9),
        torch.tensor(embeddings, dtype=torch.float32).reshape(count, 4),
    )[order]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return Pictures(folder)


@pytest.fixture
def full(pictures):
    """Eight pictures: a red square in each, a green one in six of them, a blue one in two."""
    for k in range(8):
        squares = [("red", 5, 10, 20 + k)]
        squares += [("green", 60, 40, 18 + k)] if k < 6 else []
        squares += [("blue", 90, 5, 20)] if k < 2 else []
        pictures.paint(f"{'deep/' if k % 2 else ''}{k}.png", *squares)
    return pictures
