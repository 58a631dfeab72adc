import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from detection.discovery import Wanted, discover, read_names
from detection.discovery.grouping import REST
from detection.structures import UNKNOWN, Detections
from sslcore.errors import ConfigError, DataError


@pytest.fixture
def found(full, tmp_path):
    """Group 1: eight red squares; group 2: six green ones."""
    return discover(full.predict, full.folder, tmp_path / "unknowns", known=["blue"], command="surnia detect learn R N")


def fill(found, *changes):
    """Replace in names.yaml: (text, by what), the first occurrence each."""
    text = found.names.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    found.names.write_text(text)
    return found.names


def name(found, number, text):
    """Type a name (and what may follow it) for a group."""
    before, after = found.names.read_text().split(f"- group: {number}", 1)
    found.names.write_text(f"{before}- group: {number}{after.replace('  name:', f'  name: {text}', 1)}")
    return found.names


def line_of(found, text, nth=0):
    lines = found.names.read_text().splitlines()
    return [number for number, line in enumerate(lines, start=1) if text in line][nth]


def test_a_folder_has_all_that_a_person_needs(found):
    assert {path.name for path in found.folder.iterdir()} == {
        "unknowns.json", "unknowns.safetensors", "groups.json", "group_01.png", "group_02.png", "index.html",
        "names.yaml",
    }  # fmt: skip
    text = found.names.read_text()
    assert "# Then run: surnia detect learn R N" in text and "Unknown objects in 2 groups: look at" in text
    page = found.index.read_text()
    assert page.count("<code>surnia detect learn R N</code>") == 1
    assert page.count("data:image/jpeg;base64,") == 14 and "http" not in page.replace("http-equiv", "")
    with Image.open(found.folder / "group_01.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 1000


def test_untouched_names_name_nothing(found):
    named = read_names(found.names, known=["blue"])
    assert named.classes == {} and named.notes == ("2 of 2 groups have no name and are not learned",)


def test_named_groups_are_classes_without_what_is_left_out(found):
    name(found, 2, "leaf")
    fill(found, ("leave_out: []\n\n- group: 2", "leave_out: [2, 5, 2]\n\n- group: 2"))
    name(found, 1, "'ladybird'  # or a tomato")
    named = read_names(found.names, known=["blue"])
    assert list(named.classes) == ["ladybird", "leaf"]
    red, green = found.grouping.groups
    kept = [thing for number, thing in enumerate(red.members.tolist(), start=1) if number not in (2, 5)]
    assert named.classes["ladybird"].tolist() == sorted(kept)
    assert named.classes["leaf"].tolist() == sorted(green.members.tolist())
    assert set(named.group_of[named.classes["leaf"]]) == {2} and named.notes == ()


def test_two_groups_of_one_name_are_one_class_and_it_is_said(found):
    name(found, 1, "thing"), name(found, 2, "thing")
    named = read_names(found.names, known=["blue"])
    assert len(named.classes["thing"]) == 14 and named.notes == ("groups 1 and 2 are both 'thing'",)


def test_names_that_yaml_takes_for_something_else_are_names(found):
    name(found, 1, "7"), name(found, 2, "true")
    assert list(read_names(found.names, known=[]).classes) == ["7", "true"]


def test_aliases_are_known_by_their_canonical_name(found):
    name(found, 1, "tvmonitor")
    named = read_names(found.names, known=["blue"], canonical={"tvmonitor": "tv"}.get)
    assert list(named.classes) == ["tv"]
    with pytest.raises(ConfigError, match="'tv' is a known class"):
        read_names(found.names, known=["tv"], canonical={"tvmonitor": "tv"}.get)


def test_everything_that_is_wrong_is_said_at_once_with_its_line(found, full):
    name(found, 1, "Blue"), name(found, 2, "leaf")
    fill(found, ("leave_out: []", "leave_out: [3, 9, x]"), ("  size: 8", "  sise: 8"))
    fill(found, ("leave_out: []", "leave_out: 4"))
    found.names.write_text(found.names.read_text() + "\n- group: 5\n  name: x\n- group: 1\n- just text\n")
    (full.folder / "2.png").unlink()
    with pytest.raises(ConfigError) as caught:
        read_names(found.names, known=["blue"])
    said = caught.value.problems
    at = {problem.split(":")[1] + " " + problem.split("  ", 1)[1] for problem in said if "  " in problem}
    assert at == {
        f"{line_of(found, 'sise')} there is no 'sise' in a file of names; did you mean 'size'?",
        f"{line_of(found, 'Blue')} 'blue' is a known class already, and a task teaches new ones only: leave the name "
        "empty, or give another if these are another kind; to teach more of 'blue', add the pictures to its task's "
        "training annotations and train a new run",
        f"{line_of(found, '[3, 9, x]')} group 1 has no picture 9; its numbers go from 1 to 8",
        f"{line_of(found, '[3, 9, x]')} group 1 has no picture 'x'; its numbers go from 1 to 8",
        f"{line_of(found, 'leave_out: 4')} leave_out is a list of numbers, as [3, 7]",
        f"{line_of(found, 'group: 5')} there is no group 5; there are 1 and 2",
        f"{line_of(found, '- group: 1', 1)} group 1 is there twice; the first stands at "
        f"{found.names}:{line_of(found, '- group: 1')}:10",
        f"{line_of(found, 'just text')} each group is an entry with group, name and leave_out",
    }
    assert "2.png" in said[-1] and len(said) == 9
    assert all(problem.startswith(str(found.names)) for problem in said[:-1])


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("unknown", "'unknown' means something else here"),
        ("Background", "'background' means something else here"),
        ("[a, b]", "one line of text"),
        ('"a\\nb"', "one line of text"),
        ("x" * 300, "at most 200 characters"),
        ("!!python/object:os.system x", "tags"),
        ("*anchor", "aliases"),
        ("a: b", "a ':' stands where no key can be"),
    ],
)
def test_names_that_cannot_be_used(found, typed, says):
    name(found, 1, typed)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        read_names(found.names, known=["blue"])
    assert f"{found.names}:{line_of(found, '  name:')}" in str(caught.value)


def test_names_that_differ_in_capitals_only_are_refused(found):
    name(found, 1, "Mug"), name(found, 2, "mug")
    with pytest.raises(ConfigError, match="'mug' and 'Mug' differ in capitals only"):
        read_names(found.names, known=[])


def test_a_named_group_with_nothing_left_is_refused(found):
    name(found, 2, "leaf")
    text = found.names.read_text()
    head, _, tail = text.rpartition("leave_out: []")
    found.names.write_text(f"{head}leave_out: [1, 2, 3, 4, 5, 6]{tail}")
    with pytest.raises(ConfigError, match="group 2 is 'leaf', but all its pictures are left out"):
        read_names(found.names, known=[])


def test_a_missing_entry_is_a_group_without_a_name(found):
    text = found.names.read_text()
    found.names.write_text(text[: text.index("- group: 2")])
    name(found, 1, "apple")
    named = read_names(found.names, known=[])
    assert list(named.classes) == ["apple"] and named.notes == ("1 of 2 groups has no name and is not learned",)


@pytest.mark.parametrize("text", ["", "groups: 3", "- a\n- b", "a: [", "\x00", "groups:\n- group: 1\n\tname: x"])
def test_broken_files_are_refused(found, text):
    found.names.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(found.names))):
        read_names(found.names, known=[])


def test_bytes_that_are_no_text_are_refused(found):
    found.names.write_bytes(b"\xff\xfe\x00groups")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_names(found.names, known=[])


def test_no_such_file(found):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yaml: no such file"):
        read_names(found.folder / "nowhere.yaml", known=[])
    with pytest.raises(ConfigError, match=r"is a folder; give the names.yaml in it"):
        read_names(found.folder, known=[])


@pytest.mark.parametrize("beside", [(), ("groups.json",), ("unknowns.json", "unknowns.safetensors")])
def test_names_that_lie_elsewhere_are_to_be_put_back(found, tmp_path, monkeypatch, beside):
    """Collecting anew would throw away what was typed."""
    name(found, 1, "apple")
    (tmp_path / "copy").mkdir()
    for file in ("names.yaml", *beside):
        shutil.copy(found.folder / file, tmp_path / "copy" / file)
    monkeypatch.chdir(tmp_path / "copy")
    missing = "groups.json" if len(beside) == 2 else "unknowns.json"
    with pytest.raises(DataError) as error:
        read_names("names.yaml", known=[])
    assert str(error.value) == (
        f"names.yaml has to lie beside its groups, but there is no {missing} in {tmp_path / 'copy'}: put the file back "
        "into the folder that surnia detect unknowns wrote it into, as its names would not fit the groups of another"
    )
    shutil.copy("names.yaml", found.folder)
    assert list(read_names(found.names, known=[]).classes) == ["apple"]


@pytest.fixture
def with_rest(pictures, tmp_path):
    """Groups 1 and 2 of five squares each, and a rest of two that have no direction."""
    for k in range(6):
        pictures.paint(f"{k}.png", ("red", 5, 10, 20 + k), ("green", 60, 40, 18 + k))

    def predict(images):
        found = pictures.predict(images)
        for each in found:
            each.embeddings[each.boxes[:, 3] == 35] = np.nan  # the red square of 5.png
            each.embeddings[each.boxes[:, 3] == 63] = np.nan  # the green one of 5.png
        return found

    return discover(predict, pictures.folder, tmp_path / "unknowns")


def test_the_rest_is_no_group_wherever_groups_are_counted(with_rest):
    found = with_rest
    assert [group.number for group in found.grouping.groups] == [1, 2, REST]
    assert found.grouping.counted() == "2 groups and a rest of 2 that fit none"
    assert "Unknown objects in 2 groups and a rest of 2 that fit none: look" in found.names.read_text()
    untouched = found.names.read_text()

    def notes(**typed):
        found.names.write_text(untouched)
        for number, text in typed.items():
            name(found, int(number.removeprefix("group_")), text)
        return read_names(found.names, known=[]).notes

    rest = "the rest, which fits no group,"
    assert notes() == (f"2 of 2 groups and {rest} have no name and are not learned",)
    assert notes(group_2="leaf") == (f"1 of 2 groups and {rest} have no name and are not learned",)
    assert notes(group_1="apple", group_2="leaf") == (f"{rest} has no name and is not learned",)
    assert notes(group_1="apple", group_0="dust") == ("1 of 2 groups has no name and is not learned",)
    assert notes(group_1="leaf", group_2="leaf", group_0="leaf") == ("groups 1, 2 and the rest are all 'leaf'",)
    assert notes(group_1="leaf", group_2="x", group_0="leaf") == ("group 1 and the rest are both 'leaf'",)
    found.names.write_text(untouched.replace("- group: 2", "- group: 3"))
    with pytest.raises(ConfigError, match=r"no group 3; there are 1 and 2 and 0, the rest that fits no group$"):
        read_names(found.names, known=[])


def test_a_line_that_was_deleted_is_said_to_be_missing_and_can_be_put_back(found):
    name(found, 1, "apple"), name(found, 2, "Blue")
    whole = found.names.read_text()
    line = f'collection: "{found.grouping.fingerprint}"\n'
    for left in ("", "collection:\n"):
        found.names.write_text(whole.replace(line, left))
        with pytest.raises(ConfigError) as caught:
            read_names(found.names, known=["blue"])
        first, second = caught.value.problems
        assert first.startswith(f"{found.names}  the line that ties the names to their groups is missing: ")
        assert f": put back  {line.strip()}  above the groups if" in first
        assert "else run surnia detect unknowns again" in first and "is a known class" in second
    found.names.write_text(line + found.names.read_text().replace("collection:\n", "").replace("Blue", "leaf"))
    assert list(read_names(found.names, known=["blue"]).classes) == ["apple", "leaf"]


def test_names_of_another_collection_are_refused(found, full, tmp_path):
    other = discover(full.predict, full.folder, tmp_path / "other", wanted=Wanted(score=0.45))
    other.names.write_bytes(name(found, 1, "apple").read_bytes())
    with pytest.raises(DataError, match="other groups than those beside"):
        read_names(other.names, known=[])


def test_changed_pictures_of_named_objects_are_refused_others_do_not_matter(found, full):
    full.paint("6.png", ("red", 1, 1, 30))  # has no green square
    name(found, 2, "leaf")
    assert len(read_names(found.names, known=[]).classes["leaf"]) == 6
    name(found, 1, "apple")
    with pytest.raises(DataError, match=r"1 of 8 pictures .* is not the file that objects .*6\.png"):
        read_names(found.names, known=[])


def test_names_already_typed_are_not_written_over(found, full):
    with pytest.raises(DataError, match="names may have been typed into it"):
        discover(full.predict, full.folder, found.folder)


def test_nothing_found_leaves_no_folder(pictures, tmp_path):
    pictures.paint("a.png", ("blue", 5, 5, 30))
    said = r"no unknown object was found: the detector calls nothing in these pictures unknown; give others"
    with pytest.raises(DataError, match=said):
        discover(pictures.predict, pictures.folder, tmp_path / "unknowns", wanted=Wanted(score=0.3))
    assert not (tmp_path / "unknowns").exists()


def test_what_was_asked_for_too_strictly_is_told(pictures, tmp_path):
    pictures.paint("a.png", ("red", 5, 5, 20), ("green", 60, 40, 25))
    said = r"of 2 detections called unknown the highest score is 0\.5, the highest posterior 0\.9: ask for less"
    with pytest.raises(DataError, match=said):
        discover(pictures.predict, pictures.folder, tmp_path / "unknowns", wanted=Wanted(posterior=0.95))
    said = r"with a score of at least 0\.6; of 2 detections called unknown the highest score is 0\.5: ask for less"
    with pytest.raises(DataError, match=said):
        discover(pictures.predict, pictures.folder, tmp_path / "unknowns", wanted=Wanted(score=0.6))
    said = r"that is at least 40 pixels high and wide, of 2 detections called unknown: give larger pictures"
    with pytest.raises(DataError, match=said):
        discover(pictures.predict, pictures.folder, tmp_path / "unknowns", wanted=Wanted(min_side=40))


def test_one_object_can_be_named(pictures, tmp_path):
    pictures.paint("a.png", ("red", 5, 5, 30))
    found = discover(pictures.predict, pictures.folder, tmp_path / "unknowns")
    assert "Unknown objects in 1 group: look at" in found.names.read_text()
    name(found, 1, "apple")
    assert read_names(found.names, known=[]).classes["apple"].tolist() == [0]


def test_embeddings_that_are_not_finite_can_be_named_too(pictures, tmp_path):
    pictures.paint("a.png", ("red", 5, 5, 30))

    def predict(images):
        detections = pictures.predict(images)
        return [Detections(**{**vars(each), "embeddings": each.embeddings * np.nan}) for each in detections]

    said = []
    found = discover(predict, pictures.folder, tmp_path / "unknowns", say=said.append)
    assert [group.number for group in found.grouping.groups] == [REST] and "without a direction" in said[0]
    assert (found.folder / "rest.png").exists() and "fit no group" in found.names.read_text()
    assert found.grouping.counted() == "a rest of 1 that fits no group"
    name(found, 0, "apple")
    assert len(read_names(found.names, known=[]).classes["apple"]) == 1


def test_large_groups_have_several_sheets(pictures, tmp_path):
    pictures.paint("a.png", size=(2000, 90))

    def predict(images):
        boxes = torch.tensor([[20.0 * k, 10, 20 * k + 15, 30] for k in range(98)])
        n = len(boxes)
        return [
            Detections(boxes, torch.full((n,), UNKNOWN), torch.ones(n), torch.ones(n), torch.ones(n), torch.ones(n, 2))
        ]

    found = discover(predict, pictures.folder, tmp_path / "unknowns")
    assert sorted(path.name for path in found.folder.glob("*.png")) == [f"group_01_{k}.png" for k in (1, 2, 3)]
    assert "sheet: group_01_1.png, group_01_2.png, group_01_3.png" in found.names.read_text()
    assert "has 74 more" in found.index.read_text()


def test_a_name_of_a_file_cannot_write_into_the_page(pictures, tmp_path):
    pictures.paint("<script>alert(1)<script>.png", ("red", 5, 5, 30))
    found = discover(pictures.predict, pictures.folder, tmp_path / "unknowns", known=["<b>"], command="<i>")
    page = found.index.read_text()
    assert "<script" not in page and "<b>" not in page and "<i>" not in page and "&lt;script&gt;" in page
