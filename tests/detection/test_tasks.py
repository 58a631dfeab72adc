import subprocess
import sys

import pytest

from detection.tasks import TaskSet
from sslcore.errors import ConfigError

TASKS = TaskSet("animals", (("dog", "cat"), ("eel",), ("fox", "gnu")), aliases={"hound": "dog"})
COCO_TO_VOC = {
    "airplane": "aeroplane",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}


def write(tmp_path, text):
    file = tmp_path / "tasks.yaml"
    file.write_text(text)
    return file


def refused(tmp_path, text):
    """The problems without the folder in front."""
    with pytest.raises(ConfigError) as caught:
        TaskSet.from_file(write(tmp_path, text))
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_classes_and_labels():
    assert TASKS.count == 3
    assert TASKS.classes == ("dog", "cat", "eel", "fox", "gnu")
    assert (TASKS.previous(2), TASKS.current(2), TASKS.known(2), TASKS.future(2)) == (
        ("dog", "cat"),
        ("eel",),
        ("dog", "cat", "eel"),
        ("fox", "gnu"),
    )
    assert (TASKS.previous(1), TASKS.future(3)) == ((), ())
    assert TASKS.label_names(1) == ("background", "unknown", "dog", "cat")
    assert TASKS.label_of(2) == {"dog": 2, "cat": 3, "eel": 4}
    assert (TASKS.canonical("hound"), TASKS.canonical("cat"), TASKS.canonical("yak")) == ("dog", "cat", "yak")
    for task in (0, 4, -1):
        with pytest.raises(ValueError, match="counts from 1 to 3"):
            TASKS.known(task)


def test_a_later_task_moves_no_label():
    for task in (1, 2):
        assert TASKS.label_of(task).items() <= TASKS.label_of(task + 1).items()


def test_survives_a_file(tmp_path):
    odd = TaskSet("a: 'b' # \"c\"", (("yes", "7", "null", "true"), ("- x", "naïve 🦉", "#1")), 5, {"[": "yes"})
    for tasks in (TASKS, odd):
        tasks.save(tmp_path / "t.yaml")
        assert TaskSet.from_file(tmp_path / "t.yaml") == tasks
        assert TaskSet.from_dict(tasks.to_dict()) == tasks


def test_defaults_and_names_that_look_like_numbers(tmp_path):
    tasks = TaskSet.from_file(write(tmp_path, "name: digits\ntasks:\n  - [0, 1]\n  - [on, 2.50]\n"))
    assert tasks == TaskSet("digits", (("0", "1"), ("on", "2.50")), unknown_id=0, aliases={})


def test_classes_may_be_listed_under_their_aliases(tmp_path):
    tasks = TaskSet.from_file(
        write(tmp_path, "name: x\ntasks: [[couch], [tv]]\naliases: {couch: sofa, tv: tvmonitor}\n")
    )
    assert tasks.tasks == (("sofa",), ("tvmonitor",))


@pytest.mark.parametrize(("name", "sizes"), [("m_owodb", [20, 20, 20, 20]), ("s_owodb", [19, 21, 20, 20])])
def test_published_lists(name, sizes):
    tasks = TaskSet.from_file(name)
    assert tasks.name == name
    assert [len(names) for names in tasks.tasks] == sizes
    assert len(set(tasks.classes)) == 80
    assert (tasks.unknown_id, dict(tasks.aliases)) == (0, COCO_TO_VOC)


def test_published_order():
    mixed, disjoint = TaskSet.from_file("m_owodb"), TaskSet.from_file("s_owodb")
    assert set(mixed.classes) == set(disjoint.classes)
    assert mixed.current(1)[:3] == ("aeroplane", "bicycle", "bird")
    assert mixed.current(1)[-1] == "tvmonitor"
    assert mixed.current(2)[0] == "truck"
    assert mixed.current(4)[-1] == "bowl"
    assert mixed.current(3) == disjoint.current(3)
    assert disjoint.current(1)[-1] == "person"
    assert disjoint.current(4)[-2:] == ("tvmonitor", "bottle")


def test_everything_wrong_is_said_at_once_with_its_line(tmp_path):
    text = """name: x
task: 3
tasks:
  - [dog, cat, dog]
  - []
  - [dog,
     unknown, '', [a]]
unknown_id: -1
aliases:
  kat: cta
"""
    assert refused(tmp_path, text) == [
        "tasks.yaml:2:7  there is no setting 'task' in a task file; did you mean 'tasks'?",
        "tasks.yaml:8:13  unknown_id must be a whole number of at least 0, not -1",
        "tasks.yaml:4:16  class 'dog' is twice in task 1",
        "tasks.yaml:5:5  task 2 has no class",
        "tasks.yaml:6:6  class 'dog' is in task 1 and again in task 3",
        "tasks.yaml:7:6  'unknown' cannot be a class: background and unknown are labels of their own",
        "tasks.yaml:7:15  task 3: a class must be a line of text of at most 200 characters, not ''",
        "tasks.yaml:7:19  task 3: a class must be a line of text of at most 200 characters, not ['a']",
        "tasks.yaml:10:8  alias 'kat' stands for 'cta', which no task has; did you mean 'cat'?",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ntasks: []\n", "tasks.yaml:2:8  there is no task; give at least one list of class names"),
        ("name: x\ntasks: dog\n", "tasks.yaml:2:8  tasks must be a list of lists of class names, not 'dog'"),
        ("name: x\ntasks: [dog]\n", "tasks.yaml:2:9  task 1 must be a list of class names, not 'dog'"),
        ("name: x\n", "tasks.yaml:1:1  'tasks' is missing"),
        ("tasks: [[a]]\n", "tasks.yaml:1:1  'name' is missing"),
        ("name: x\ntasks: [[Background]]\n", "tasks.yaml:2:10  'Background' cannot be a class: background and"),
        ("name: x\ntasks: [[a]]\nunknown_id: no\n", "tasks.yaml:3:13  unknown_id must be a whole number"),
        ("name: x\ntasks: [[a]]\naliases: [b]\n", "tasks.yaml:3:10  aliases must map"),
        ("name: x\ntasks: [[a]]\naliases: {unknown: a}\n", "tasks.yaml:3:20  'unknown' is a label of its own"),
        ("name: x\ntasks: !!python/name:os.system [[a]]\n", "tasks.yaml:2:8  tags ("),
        ("name: x\ntasks: [[&a b], [*a]]\n", "tasks.yaml:2:18  aliases (*a) are not allowed in a task file"),
        ("- a\n", "tasks.yaml  is no task file"),
        ("", "tasks.yaml  is no task file"),
    ],
)
def test_refused(tmp_path, text, said):
    assert refused(tmp_path, text)[0].startswith(said)


def test_a_class_repeated_under_its_alias(tmp_path):
    text = "name: x\ntasks:\n  - [sofa]\n  - [couch]\naliases: {couch: sofa}\n"
    assert refused(tmp_path, text) == [
        "tasks.yaml:4:6  class 'sofa' is in task 1 and again in task 2 as 'couch', an alias of it"
    ]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; did you mean 'm_owodb'"):
        TaskSet.from_file("m_owod")
    with pytest.raises(ConfigError, match="cannot be read"):
        TaskSet.from_file(tmp_path)
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ConfigError, match="not UTF-8"):
        TaskSet.from_file(tmp_path / "picture.yaml")
    (tmp_path / "long.yaml").write_text("# " + "x" * 3_000_000)
    with pytest.raises(ConfigError, match="longer than"):
        TaskSet.from_file(tmp_path / "long.yaml")


def test_a_task_set_in_code_is_checked_too():
    with pytest.raises(ConfigError, match="class 'dog' is in task 1 and again in task 2"):
        TaskSet("x", (("dog",), ("dog",)))
    with pytest.raises(ConfigError, match="there is no task"):
        TaskSet("x", ())


def test_imports_nothing_heavy():
    code = "import sys, detection.tasks; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_shipped_name_means_what_is_shipped_whatever_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("m_owodb", "s_owodb.yaml"):
        (tmp_path / folder).mkdir()
    (tmp_path / "s_owodb").write_text("name: mine\ntasks: [[dog]]\n")
    assert TaskSet.from_file("m_owodb").count == 4
    assert TaskSet.from_file("s_owodb").name != "mine"
    assert TaskSet.from_file("./s_owodb").name == TaskSet.from_file(tmp_path / "s_owodb").name == "mine"
    with pytest.raises(ConfigError, match=r"s_owodb\.yaml  cannot be read"):
        TaskSet.from_file("s_owodb.yaml")
