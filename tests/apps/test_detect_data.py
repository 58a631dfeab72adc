import json
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from apps.detect_data import openscenes, options
from detection.data.scenes import open_openscenes
from sslcore.errors import ConfigError, DataError


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """--sprites and --backgrounds with four classes and eight photographs."""
    monkeypatch.setenv("SURNIA_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for k in range(8):
        (tmp_path / "photos").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    for k in range(4):
        (tmp_path / "art" / f"class{k}").mkdir(parents=True)
        Image.new("RGBA", (20 + 5 * k, 20), (60 * k, 90, 200, 255)).save(tmp_path / "art" / f"class{k}" / "one.png")
    return ["--sprites", str(tmp_path / "art"), "--backgrounds", str(tmp_path / "photos"), "--size", "tiny"]


def test_composes_a_set_shows_its_table_and_says_how_to_go_on(parts, tmp_path, capsys):
    out = tmp_path / "my set"
    assert openscenes(options().read([*parts, "--out", str(out)])) == 0
    said = capsys.readouterr().out
    assert "train_1      48" in said
    assert "class3" in said
    assert f"surnia detect train openscenes_small --data.path '{out}'" in said
    assert open_openscenes(out).manifest["hash"] in said
    assert openscenes(options().read([*parts, "--out", str(out)])) == 0, "the same set is simply there"
    assert capsys.readouterr().out == said


def test_a_changed_set_is_named_by_file_with_the_command_that_makes_it_as_it_was(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "my set"
    relative = [word.removeprefix(f"{tmp_path}/") for word in parts]
    assert openscenes(options().read([*relative, "--seed", "2", "--out", str(out)])) == 0
    made = open_openscenes(out)
    monkeypatch.chdir("/")  # the folders of art are named such that they are found from anywhere
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError) as caught:
        open_openscenes(out)
    assert str(caught.value) == (
        f"{out} is not as it was made: notes.txt was added; nothing else is wrong, so take out what was added"
    )
    first, second, *_ = sorted(path.name for path in (out / "images").iterdir())
    (out / "images" / first).write_bytes(b"")
    (out / "train_1.json").write_text("{}")
    (out / "images" / second).unlink()
    with pytest.raises(DataError) as caught:
        open_openscenes(out)
    said, _, command = str(caught.value).partition("; delete the folder, and make it anew with: ")
    assert said == (
        f"{out} is not as it was made: images/{first} was changed, train_1.json was changed, images/{second} was "
        "deleted, and 1 more"
    )
    shutil.rmtree(out)
    words = shlex.split(command)
    assert words[:4] == ["surnia", "detect", "data", "openscenes"]
    assert openscenes(options().read(words[4:])) == 0
    assert open_openscenes(out).manifest == made.manifest


def test_what_a_changed_set_was_made_with_is_said_as_far_as_it_is_known(parts, tmp_path):
    """An older set says nothing of where its art was, and a damaged manifest says nothing at all."""
    out = tmp_path / "set"
    assert openscenes(options().read([*parts, "--out", str(out)])) == 0
    file = out / "manifest.json"
    older = {key: value for key, value in json.loads(file.read_text()).items() if key != "origin"}
    file.write_text(json.dumps(older))
    assert open_openscenes(out).tasks.count == 2
    (out / "val.json").unlink()
    made_with = f"surnia detect data openscenes --out {out}"
    with pytest.raises(DataError) as caught:
        open_openscenes(out)
    assert str(caught.value).endswith(
        f"{made_with} --variant M --size tiny --seed 0 and the --sprites and --backgrounds that it was made with, if "
        "any"
    )
    file.write_text("{")
    with pytest.raises(DataError) as caught:
        open_openscenes(out)
    assert str(caught.value) == (
        f"{out} is not as it was made: manifest.json was changed; delete the folder, and make it anew with: "
        f"{made_with} and the options that it was made with"
    )


def test_without_out_the_set_is_kept_in_the_cache_and_its_place_told(parts, tmp_path, capsys):
    openscenes(options().read([*parts, "--seed", "3"]))
    (folder,) = (tmp_path / "cache" / "openscenes").iterdir()
    assert f"OpenScenes-M, tiny, seed 3, is in {folder}" in capsys.readouterr().out


def test_a_folder_with_something_else_is_refused_with_both_ways_out(parts, tmp_path):
    with pytest.raises(DataError, match="photos already holds something else: name a new folder, or delete this one"):
        openscenes(options().read([*parts, "--out", str(tmp_path / "photos")]))
    assert len(list((tmp_path / "photos").iterdir())) == 8


def test_what_is_wrong_on_the_command_line_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        options().read(["--variant", "X", "--size", "smal", "--workers", "0", "--sprites", str(tmp_path / "none")])
    said = str(caught.value)
    assert "--variant  must be one of M, S" in said
    assert "did you mean 'small'" in said
    assert "--workers  must be a whole number of at least 1" in said
    assert "--sprites  there is nothing at" in said
