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
