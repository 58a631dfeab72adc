"""`surnia pretrain` on a folder of pictures, from the first command to the resumed run."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from apps.cli import main
from sslcore.pretrain import run as run_module

SMALL = [
    "--backbone.name=tiny", "--backbone.width=4", "--method.projector=[8,8]", "--views.0.size=16", "--views.0.count=2",
    "--batch_size=6", "--epochs=2", "--data.workers=0", "--data.hold=files", "--checkpoint_every=2",
    "--probe.every_epochs=0", "--threads=1",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty pictures of mixed size, one of which is no picture."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        pixels = rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i:02d}.png")
    (tmp_path / "pictures" / "07.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    return tmp_path


def pretrain(*arguments):
    return main(["pretrain", "folder_cpu", "--data.path", "pictures", *SMALL, *arguments])


def test_a_run_leaves_all_it_promises(folder, capsys):
    assert pretrain("--run", "runs/one") == 0
    said = capsys.readouterr()
    assert "skipped" in said.err and "07.png" in said.err
    assert "skipped pictures/07.png" in said.out
    run = folder / "runs" / "one"
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "finished" and facts["seed"] == 0 and facts["versions"]["torch"]
    assert facts["command"][:3] == ["surnia", "pretrain", "folder_cpu"]
    assert "batch_size: 6" in (run / "recipe.yaml").read_text()
    report = (run / "report.html").read_text()
    assert "Mean training loss" in report and "pictures/07.png" in report and "batch_size: 6" in report
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["step-00000004", "step-00000006"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "images_per_second", "learning_rate", "embedding_std"} <= {key for line in lines for key in line}


def test_a_run_is_never_overwritten_and_the_refusal_names_both_ways_out(folder, capsys):
    assert pretrain("--run", "runs/one") == 0
    capsys.readouterr()
    before = (folder / "runs" / "one" / "run.json").read_bytes()
    assert pretrain("--run", "runs/one") == 2
    said = capsys.readouterr().err
    assert "--resume" in said and "--run" in said and "Traceback" not in said
    assert (folder / "runs" / "one" / "run.json").read_bytes() == before


def test_a_dry_run_says_what_the_run_would_take_and_writes_nothing(folder, capsys):
    assert pretrain("--dry-run", "--run", "runs/one") == 0
    said = capsys.readouterr().out
    for part in ("images", "parameters of the backbone", "GiB", "images/s", "time for the run", "nothing was written"):
        assert part in said
    assert not (folder / "runs").exists()


def test_a_stopped_run_says_how_to_go_on_and_goes_on(folder, capsys, monkeypatch):
    real = run_module.Checkpoints.on_train_batch_end

    def interrupted(self, trainer, *rest):
        if trainer.global_step == 3 and trainer.current_epoch == 0 and not resumed:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, trainer, *rest)

    monkeypatch.setattr(run_module.Checkpoints, "on_train_batch_end", interrupted)
    resumed = []
    assert pretrain("--run", "runs/one") == 130
    said = capsys.readouterr().out
    assert "step-00000003" in said and "surnia pretrain --resume runs/one" in said
    assert json.loads((folder / "runs" / "one" / "run.json").read_text())["status"] == "stopped"

    assert main(["pretrain", "--resume", "runs/one", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3 of 6 are left (3 batches an epoch)" in said and "time for the rest" in said

    resumed.append(True)
    assert main(["pretrain", "--resume", "runs/one"]) == 0
    assert json.loads((folder / "runs" / "one" / "run.json").read_text())["status"] == "finished"
    steps = [json.loads(line)["step"] for line in (folder / "runs" / "one" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6


def test_more_unreadable_images_than_allowed_end_the_run_with_their_names(folder, capsys):
    assert pretrain("--run", "runs/one", "--data.bad_images", "0") == 3
    said = capsys.readouterr().err
    assert "07.png" in said and "bad_images" in said and "Traceback" not in said


def test_a_damaged_newest_checkpoint_is_passed_over_and_that_is_said(folder, capsys):
    assert pretrain("--run", "runs/one") == 0
    newest = folder / "runs" / "one" / "checkpoints" / "step-00000006" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x00")
    capsys.readouterr()
    assert main(["pretrain", "--resume", "runs/one"]) == 0
    said = capsys.readouterr().err
    assert "skipped step-00000006" in said and "damaged" in said
    assert newest.exists()  # written anew by the resumed run
