import json

from detection.data.scenes.cache import Differences, build_folder, differences, read_manifest


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


def test_where_things_came_from_stands_in_the_manifest_but_not_in_the_hash(tmp_path):
    def build(folder):
        (folder / "a.txt").write_text("a")

    here, there = (build_folder(tmp_path / at, {"n": 1}, build, origin={"art": at}) for at in ("here", "there"))
    assert (here["origin"], here["hash"]) == ({"art": "here"}, there["hash"])
    assert read_manifest(tmp_path / "here") == here


def test_differences_from_the_manifest_by_file(tmp_path):
    def build(folder):
        (folder / "deep").mkdir()
        for name in "abc":
            (folder / "deep" / name).write_text(name)

    folder = tmp_path / "set"
    manifest = build_folder(folder, {"n": 1}, build)
    assert differences(folder) == Differences(manifest)
    (folder / "deep" / "a").write_text("b")
    (folder / "deep" / "b").unlink()
    (folder / "d").touch()
    assert differences(folder) == Differences(manifest, ("deep/a",), ("deep/b",), ("d",))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"hash": "0"}))
    assert differences(folder) == Differences({}, ("deep/a", "manifest.json"), ("deep/b",), ("d",))
    for damaged in ("{", "[]", "{}"):
        (folder / "manifest.json").write_text(damaged)
        assert differences(folder) == Differences({}, ("manifest.json",))
