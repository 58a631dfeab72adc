"""A run that begins where another stands is there as a whole or not at all."""

from dataclasses import replace

import pytest
from support.drawn import TASKS, drawn_recipe

from detection.discovery import Lesson
from detection.training.further import LEARNED, Standing, begin_further, finished_tasks
from sslcore.errors import CheckpointError
from sslcore.storage import operations
from sslcore.storage.files import write_text


@pytest.fixture
def begin(tmp_path, drawn, whole):
    """Begins tmp_path/runs/new with a third task, whatever the drawn images have of it."""
    tasks = replace(TASKS, tasks=(*TASKS.tasks, ("grey",)))
    folder = tmp_path / "given" / "lessons" / "3"
    folder.mkdir(parents=True)
    tasks.save(folder / "tasks.yaml")
    write_text(folder / "train.json", "{}")
    write_text(tmp_path / "given" / LEARNED, '{"things": []}')
    lesson = Lesson(tasks, 3, drawn.trains[1], (), folder / "tasks.yaml", folder / "train.json")
    standing = Standing(whole[0], drawn_recipe(), drawn, 2)
    return lambda: begin_further(
        standing, drawn_recipe(), lesson, tmp_path / "runs/new", as_text=lambda recipe: "data: {}\n", command=["test"]
    )


def test_what_the_other_run_has_is_copied(tmp_path, whole, begin):
    begin()
    new = tmp_path / "runs/new"
    assert finished_tasks(new) == 2
    tasks = [f"tasks/{task}/{name}" for task in (1, 2) for name in ("energies.json", "results.json", "exemplars.json")]
    for name in ("metrics.jsonl", *tasks):
        assert (new / name).read_bytes() == (whole[0] / name).read_bytes(), name
    for name in (LEARNED, "lessons/3/tasks.yaml", "lessons/3/train.json"):
        assert (new / name).read_bytes() == (tmp_path / "given" / name).read_bytes(), name


def test_where_a_copy_cannot_be_written_there_is_no_run(tmp_path, begin, monkeypatch):
    announced = []
    with monkeypatch.context() as patch:
        patch.setattr(operations, "step", lambda operation, path, torn=None: announced.append((operation, path)))
        begin()
    operations.delete(tmp_path / "runs/new")
    copies = (LEARNED, "lessons/3/train.json", "tasks/2/energies.json", "metrics.jsonl")
    for name in copies:
        steps = [n for n, (what, path) in enumerate(announced, start=1) if what == "write" and _known(path, name)]
        monkeypatch.setenv("SURNIA_FAULT", f"error:{steps[-1]}")
        with pytest.raises(CheckpointError, match=rf"cannot write {tmp_path}/runs/new/{name}: no space left .* free"):
            begin()
        assert list((tmp_path / "runs").iterdir()) == []


def _known(path, name):
    """Whether the path is the new run's file `name`, by whatever names it is written under."""
    return str(operations._final(path)).endswith(f"/runs/new/{name}")
