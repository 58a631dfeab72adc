import pytest
import torch

from sslcore.errors import CheckpointError
from sslcore.storage import save_checkpoint, step_folder
from sslcore.training.resuming import refuse_unless_empty, resume_point


@pytest.fixture
def folder(tmp_path):
    for step in (1000, 2000):
        save_checkpoint(step_folder(tmp_path, step), model={"w": torch.ones(2)})
    return tmp_path


def test_where_a_run_goes_on_is_said(folder):
    said = []
    assert resume_point(folder, said.append, unit="environment step") == step_folder(folder, 2000)
    assert said == ["the run goes on after environment step 2,000"]


def test_what_is_passed_over_is_said(folder):
    (step_folder(folder, 2000) / "train.safetensors").write_bytes(b"?")
    said = []
    assert resume_point(folder, said.append) == step_folder(folder, 1000)
    assert [sentence.split(":")[0] for sentence in said] == [
        "skipped step-00002000", "using step-00001000, the newest that verifies", "the run goes on after step 1,000",
    ]  # fmt: skip


def test_what_belongs_to_a_checkpoint_beside_its_folder_is_asked_for(folder):
    def verify(path):
        if path.name != "step-00001000":
            raise CheckpointError("the replay is missing")

    said = []
    assert resume_point(folder, said.append, verify=verify) == step_folder(folder, 1000)
    assert said[0] == "skipped step-00002000: the replay is missing"

    def refuse(path):
        raise CheckpointError("no")

    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is sound, so the run cannot be continued"):
        resume_point(folder, said.append, verify=refuse)


def test_a_run_without_checkpoints_begins_anew(tmp_path):
    said = []
    assert resume_point(tmp_path / "none", said.append) is None
    assert said == ["the run was ended before its first checkpoint: it begins anew"]


def test_what_cannot_be_continued_is_named_with_its_remedy(folder, tmp_path):
    wanted = r"no checkpoint in .* is sound, so task 1 cannot be continued; restore .* from a copy, or delete them all$"
    with pytest.raises(CheckpointError, match=wanted):
        refuse_unless_empty(folder, what="task 1", otherwise="delete them all")
    refuse_unless_empty(tmp_path / "none")
