import re
from html.parser import HTMLParser

import numpy as np
import pytest

from apps.report import Page
from apps.report.figures import bars, contact_sheet, curve, embedding_map, neighbours


class Checker(HTMLParser):
    """Collects the tags, what they point to, and whether every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "img"}:  # which have no end
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (9, 3, 8, 8), dtype=np.uint8)
    page = Page("A <b>title</b>", "lead", "footer")
    page.section("Numbers & signs")
    page.text("x < y & z")
    page.alert("collapsed")
    page.code("surnia doctor --data 'a & b'")
    page.table(["features", "kNN"], [["raw", "0.1"], ["<script>alert(1)</script>", "0.2"]], best=1, note="note")
    page.figures((curve([(0, 1.0), (1, 0.5)], x="step", y="loss", level=(0.9, "chance")), "falls"))
    page.figures((bars(["kNN", "linear"], {"raw": [0.1, 0.2], "trained": [0.3, 0.4]}, y="accuracy"), "bars"))
    page.figures(
        (contact_sheet(images, 4), "sheet"),
        (neighbours(images[:2], images[:6].reshape(2, 3, 3, 8, 8), np.ones((2, 3), bool), "by"), "neighbours"),
    )
    page.figures((embedding_map(rng.normal(size=(9, 2)), images, columns=4, rows=3), "map"))
    path = tmp_path / "report.html"
    page.write(path)
    return path.read_text()


def test_a_page_is_whole_and_needs_nothing_from_outside(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.links) == 5
    assert all(link.startswith("data:image/png;base64,") for link in checker.links)
    assert not re.search(r"https?://|@import|url\(", page)


def test_what_people_type_is_text_and_never_markup(page):
    checker = Checker()
    checker.feed(page)
    text = "".join(checker.text)
    assert "<script>alert(1)</script>" in text and "A <b>title</b>" in text and "x < y & z" in text
    assert "<script>" not in page


def test_the_best_row_stands_out(page):
    assert page.count('<tr class="best">') == 1


def test_a_curve_shows_its_level_and_all_its_points():
    figure = curve([(0, 3.0), (10, 2.0), (20, 1.0)], x="step", y="loss", level=(3.5, "chance 3.50"))
    (axes,) = figure.axes
    assert list(axes.lines[0].get_ydata()) == [3.0, 2.0, 1.0] and list(axes.lines[1].get_ydata()) == [3.5, 3.5]
    assert axes.texts[0].get_text() == "chance 3.50"
    assert axes.get_ylim()[1] > 3.5


def test_a_curve_without_points_is_an_empty_figure():
    assert list(curve([], x="step", y="loss").axes[0].lines[0].get_xdata()) == []


def test_neighbours_keeps_every_picture_in_view():
    images = np.zeros((3, 3, 8, 8), np.uint8)
    figure = neighbours(images, np.zeros((3, 5, 3, 8, 8), np.uint8), np.eye(3, 5, dtype=bool), "by")
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    for image in axes.images:
        x0, x1, y0, y1 = image.get_extent()
        assert left <= x0 < x1 <= right and top <= min(y0, y1) < max(y0, y1) <= bottom
    assert len(axes.images) == 3 * 6


def test_a_contact_sheet_holds_the_images_in_reading_order():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8) * 50
    (axes,) = contact_sheet(images, columns=2).axes
    sheet = axes.images[0].get_array()
    assert sheet.shape == (12, 12, 3)
    assert (sheet[3, 3, 0], sheet[3, 9, 0], sheet[9, 3, 0]) == (0, 50, 100)
    assert sheet[9, 9, 0] == 255  # no fourth image


def test_the_map_puts_pictures_where_their_points_are_and_the_middle_one_of_a_cell_on_top():
    points = np.array([[0.0, 0.0], [10.0, 10.0], [6.0, 6.1], [6.2, 7.4]])
    images = np.stack([np.full((3, 2, 2), value, np.uint8) for value in (10, 20, 30, 40)])
    (axes,) = embedding_map(points, images, columns=2, rows=2).axes
    sheet = axes.images[0].get_array()
    assert sheet.shape == (4, 4, 3)
    assert sheet[3, 0, 0] == 10  # bottom left
    assert sheet[0, 3, 0] == 40  # top right: of the three in this cell the nearest to its middle
    assert sheet[0, 0, 0] == sheet[3, 3, 0] == 255  # nobody there
