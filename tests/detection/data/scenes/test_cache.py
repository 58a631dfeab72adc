import json

from detection.data.scenes.cache import build_folder, read_manifest


def test_statistics_stand_in_the_manifest_but_not_in_the_hash(tmp_path):
    def build(folder, statistics):
        (folder / "a.txt").write_text("a")
        return statistics

    plain = build_folder(tmp_path / "plain", {"n": 1}, lambda folder: build(folder, None))
    counted = build_folder(tmp_path / "counted", {"n": 1}, lambda folder: build(folder, {"images": 3}))
    assert "statistics" not in plain
    assert counted["statistics"] == {"images": 3}
    assert counted["hash"] == plain["hash"]
    assert read_manifest(tmp_path / "counted") == counted
    assert json.loads((tmp_path / "counted" / "manifest.json").read_text()) == counted
    (tmp_path / "counted" / "b.txt").write_text("b")
    assert read_manifest(tmp_path / "counted") is None
