import io
import subprocess
import sys
import zipfile

import pytest
from PIL import Image

from detection.data.scenes import ArtCatalogue, art, kenney
from detection.data.scenes.cache import file_sha256
from sslcore.errors import DataError

TABLE = {"beings": {"robot": ("robots/robot_{idle,walk}",)}, "far unknown": {"rock": ("tiles/rock",)}}


def png(k: int) -> bytes:
    """A small drawing, another for each k."""
    image = Image.new("RGBA", (20, 20))
    image.paste((60 * k, 255 - 60 * k, 0, 255), (2, 2, 18, 14))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def make_wheel(path, **members):
    """A wheel with the table's drawings, more files that must not be taken out, and `members` (None removes one)."""
    content = {
        f"{kenney.ROOT}/robots/robot_idle.png": png(0),
        f"{kenney.ROOT}/robots/robot_walk.png": png(1),
        f"{kenney.ROOT}/tiles/rock.png": png(2),
        f"{kenney.ROOT}/License.txt": b"CC0",
        "arcade/__init__.py": b"raise SystemExit",
        "../outside.png": png(3),
        f"{kenney.ROOT}/../../../../../../outside.png": png(3),
        "/outside.png": png(3),
    }
    content.update({f"{kenney.ROOT}/{name}": data for name, data in members.items()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(name, data)
    return path


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A fabricated wheel that is the pinned one; pip must not be called."""
    path = make_wheel(tmp_path / "arcade.whl")
    monkeypatch.setattr(kenney, "TABLE", TABLE)
    monkeypatch.setattr(kenney, "SHA256", file_sha256(path))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    return path


def test_takes_out_the_drawings_and_the_licence_and_nothing_else(wheel, tmp_path, cache):
    folder = art.kenney_folder(art_wheel=wheel)
    assert folder.parent == cache
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert names == [
        "beings/robot/robot_idle.png",
        "beings/robot/robot_walk.png",
        "far unknown/rock/rock.png",
        "licence-License.txt",
        "manifest.json",
    ]
    assert not list(tmp_path.rglob("outside.png"))


def test_the_catalogue_has_the_tables_classes_and_supercategories(wheel):
    catalogue = ArtCatalogue.kenney(art_wheel=wheel)
    assert catalogue.classes == ["robot", "rock"]
    assert [d.id for d in catalogue.drawings] == ["robot/robot_idle", "robot/robot_walk", "rock/rock"]
    assert catalogue.supercategory("rock") == kenney.FAR


def test_works_offline_from_the_cache_afterwards(wheel):
    first = art.kenney_folder(art_wheel=wheel)
    wheel.unlink()
    assert art.kenney_folder() == first  # neither the wheel nor pip


def test_the_environment_can_name_the_wheel(wheel, monkeypatch):
    monkeypatch.setenv("SURNIA_ART_WHEEL", str(wheel))
    assert (art.kenney_folder() / "beings/robot/robot_walk.png").read_bytes() == png(1)


def test_a_damaged_cache_is_made_anew(wheel):
    folder = art.kenney_folder(art_wheel=wheel)
    drawing = folder / "beings/robot/robot_idle.png"
    drawing.write_bytes(drawing.read_bytes()[:-1] + b"?")
    (folder / "beings/robot/intruder.png").write_bytes(png(4))
    art.kenney_folder(art_wheel=wheel)
    assert drawing.read_bytes() == png(0)
    assert not (folder / "beings/robot/intruder.png").exists()


def test_another_wheel_is_refused_before_it_is_opened(wheel, cache):
    with wheel.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"arcade\.whl is not the wheel of arcade .* that Surnia pins"):
        art.kenney_folder(art_wheel=wheel)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_missing_wheel_is_named(wheel, tmp_path):
    with pytest.raises(DataError, match=r"nothing\.whl does not exist: name arcade-"):
        art.kenney_folder(art_wheel=tmp_path / "nothing.whl")


def test_a_missing_member_is_named_and_leaves_nothing_behind(tmp_path, cache, wheel, monkeypatch):
    broken = make_wheel(tmp_path / "broken.whl", **{"tiles/rock.png": None})
    monkeypatch.setattr(kenney, "SHA256", file_sha256(broken))
    with pytest.raises(DataError, match=r"broken\.whl lacks .*tiles/rock\.png"):
        art.kenney_folder(art_wheel=broken)
    assert not list(cache.iterdir())


def test_a_member_that_unpacks_to_too_much_is_refused(tmp_path, wheel, monkeypatch):
    bomb = make_wheel(tmp_path / "bomb.whl", **{"tiles/rock.png": bytes(3_000_000)})
    assert bomb.stat().st_size < 20_000
    monkeypatch.setattr(kenney, "SHA256", file_sha256(bomb))
    with pytest.raises(DataError, match="is larger than 1000000 bytes"):
        art.kenney_folder(art_wheel=bomb)


def test_a_file_that_is_no_zip_is_refused(tmp_path, wheel, monkeypatch):
    (tmp_path / "page.whl").write_bytes(b"<html>not found</html>")
    monkeypatch.setattr(kenney, "SHA256", file_sha256(tmp_path / "page.whl"))
    with pytest.raises(DataError, match="is no readable wheel"):
        art.kenney_folder(art_wheel=tmp_path / "page.whl")


def test_a_damaged_member_is_refused(tmp_path, wheel, monkeypatch):
    content = bytearray(wheel.read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"  # inside the first member's data
    (tmp_path / "torn.whl").write_bytes(content)
    monkeypatch.setattr(kenney, "SHA256", file_sha256(tmp_path / "torn.whl"))
    with pytest.raises(DataError, match=r"torn\.whl"):
        art.kenney_folder(art_wheel=tmp_path / "torn.whl")


def test_pip_is_asked_for_the_pinned_wheel_only(monkeypatch, tmp_path, wheel):
    seen = {}

    def run(command, **_):
        seen["command"] = command
        seen["pin"] = (tmp_path / "to" / "requirements.txt").read_text()
        (tmp_path / "to" / "arcade-0-py3-none-any.whl").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, "", "")

    (tmp_path / "to").mkdir()
    monkeypatch.setattr(subprocess, "run", run)
    assert art.download_wheel(tmp_path / "to").name == "arcade-0-py3-none-any.whl"
    assert seen["command"][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(seen["command"])
    assert seen["pin"] == f"arcade=={kenney.VERSION} --hash=sha256:{kenney.SHA256}\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution\n"), "No matching"),
        (subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n"), "No module named pip"),
        (subprocess.CompletedProcess([], 1, "", ""), "pip said nothing"),
        (subprocess.TimeoutExpired("pip", 5), "no answer within 5 s"),
    ],
)
def test_an_unreachable_index_ends_in_one_sentence_with_the_ways_out(monkeypatch, tmp_path, answer, said):
    def run(*_, **__):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match=said) as caught:
        art.download_wheel(tmp_path, seconds=5)
    assert "SURNIA_ART_WHEEL=" in str(caught.value)
    assert "sprites=folder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_real_table_names_every_file_once():
    files = art.wanted(kenney.TABLE)
    classes = [name for group in kenney.TABLE.values() for name in group]
    assert len(classes) == len(set(classes)) == 47
    assert len({member for _, _, member in files.values()}) == len(files) == 257
    assert all(".." not in member and "{" not in member for _, _, member in files.values())
