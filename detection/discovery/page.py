"""One page that shows all groups, to look through beside the file of names. Needs no network and no other file."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from detection.discovery.grouping import REST, Grouping
from detection.discovery.records import UnknownObjects
from detection.discovery.sheets import Crops, Sheet, title
from sslcore.storage import files
from sslcore.storage.messages import show_path

INDEX = "index.html"
SHOWN = 24
"""Most crops of a group on the page; the sheets have all."""


def write_page(
    folder: Path,
    unknowns: UnknownObjects,
    grouping: Grouping,
    sheets: Mapping[int, Sequence[Sheet]],
    crops: Crops,
    *,
    command: str | None = None,
) -> None:
    """Write `index.html`.

    Args:
        folder: where to.
        unknowns: the objects.
        grouping: their groups.
        sheets: of every group, by its number.
        crops: the objects' pictures, which the page carries within itself.
        command: what to run when the names are typed.

    Raises:
        CheckpointError: it cannot be written.
    """
    groups = [
        {
            "title": title(group),
            "rest": group.number == REST,
            "number": group.number,
            "sheets": sheets[group.number],
            "more": max(0, len(group) - SHOWN),
            "crops": [
                {
                    "number": number,
                    "data": base64.b64encode(crops.jpeg(thing)).decode("ascii"),
                    "about": _about(unknowns, thing),
                }
                for number, thing in enumerate(group.members[:SHOWN].tolist(), start=1)
            ],
        }
        for group in grouping.groups
    ]
    environment = Environment(
        loader=PackageLoader("detection.discovery", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    text = environment.get_template("index.html").render(
        groups=groups,
        notes=grouping.notes,
        objects=len(unknowns),
        images=len(unknowns.images),
        known=unknowns.known,
        command=command,
    )
    files.write_text(folder / INDEX, text)


def _about(unknowns: UnknownObjects, thing: int) -> str:
    box = ", ".join(f"{x:.0f}" for x in unknowns.boxes[thing])
    about = f"{show_path(unknowns.image_of(thing).file)}  [{box}]  score {unknowns.scores[thing]:.2f}"
    posterior = unknowns.posteriors[thing]
    return about + (f", unknown {posterior:.2f}" if posterior == posterior else "")
