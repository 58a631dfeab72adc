"""A report page that is put together section by section and written as one self-contained HTML file."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from sslcore.storage.files import write_text

DOTS_PER_INCH = 160  # twice a screen's, so that pictures stay sharp when enlarged


class Page:
    """A page of sections; whatever is added goes into the newest one.

    Args:
        title: heading and window title.
        lead: one or two sentences under it.
        footer: how the page came about (versions, seed, command).
    """

    def __init__(self, title: str, lead: str, footer: str = "") -> None:
        self.title, self.lead, self.footer = title, lead, footer
        self.sections: list[dict[str, Any]] = []

    def section(self, heading: str) -> None:
        self.sections.append({"heading": heading, "blocks": []})

    def subheading(self, text: str) -> None:
        self._add(kind="subheading", text=text)

    def text(self, text: str) -> None:
        self._add(kind="text", text=text)

    def link(self, text: str, file: str) -> None:
        """A line that leads to another page, a file relative to this one."""
        self._add(kind="link", text=text, file=file)

    def alert(self, text: str) -> None:
        """A paragraph that stands out: something that needs the reader's attention."""
        self._add(kind="alert", text=text)

    def code(self, text: str) -> None:
        self._add(kind="code", text=text)

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], *, best: int | None = None, note: str = ""
    ) -> None:
        """A table; row `best` stands out."""
        self._add(kind="table", header=header, rows=rows, best=best, note=note)

    def figures(self, *figures: tuple[Figure, str]) -> None:
        """Figures with captions, side by side where there is room."""
        self._add(kind="figures", photos=False, figures=[_embed(figure, caption) for figure, caption in figures])

    def pictures(self, *pictures: tuple[Image.Image, str]) -> None:
        """Photographs with captions, side by side, each as wide as it is in pixels."""
        shown = [_photograph(picture, caption) for picture, caption in pictures]
        self._add(kind="figures", photos=True, figures=shown)

    def clip(self, file: Path, caption: str, *, width: int) -> None:
        """A moving picture, .mp4 or .gif, shown `width` pixels wide and again and again."""
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        kind = file.suffix.removeprefix(".")
        shown = {"type": kind, "data": data, "caption": caption, "width": width, "video": kind == "mp4"}
        self._add(kind="clip", clip=shown)

    def write(self, path: Path) -> None:
        environment = Environment(
            loader=PackageLoader("apps.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        page = environment.get_template("page.html")
        write_text(path, page.render(title=self.title, lead=self.lead, sections=self.sections, footer=self.footer))

    def _add(self, **block: Any) -> None:
        self.sections[-1]["blocks"].append(block)


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, as sharp as in pages."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _embed(figure: Figure, caption: str) -> dict[str, Any]:
    data = base64.b64encode(png(figure)).decode("ascii")
    return {"type": "png", "data": data, "caption": caption, "width": round(figure.get_figwidth() * 96)}


def _photograph(picture: Image.Image, caption: str) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"type": "jpeg", "data": data, "caption": caption, "width": picture.width}
