"""The train_net.py of docs/detectron2.md, run as it stands there."""

import json
import re
from pathlib import Path

import pytest
import torch
from support.drawn import TASKS, draw_set

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from detection.engines.detectron2 import OpenWorldRCNN
from detection.training.fitting import fit_decision

PAGE = Path(__file__).parents[4] / "docs" / "detectron2.md"


@pytest.fixture
def program(tmp_path, monkeypatch, small_cfg):
    """The page's program in a folder with data and a configuration; its names."""
    (text,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def main" in block
    )
    draw_set(tmp_path)
    (tmp_path / "images").rename(tmp_path / "pictures")
    (tmp_path / "train_1.json").rename(tmp_path / "train.json")
    TASKS.save(tmp_path / "tasks.yaml")
    monkeypatch.chdir(tmp_path)
    cfg = small_cfg(known=[], tasks="tasks.yaml", task=1)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("farm_1_train",), ("farm_1_test",)
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    Path("farm.yaml").write_text(cfg.dump())
    before = set(DatasetCatalog.list())
    names = {"__name__": "train_net"}
    exec(compile(text, "train_net.py", "exec"), names)
    yield names
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_three_lines_make_an_open_world_train_net(program, tmp_path, small_cfg):
    text = PAGE.read_text()
    assert all(len(re.findall(rf"# {number}$", text, re.MULTILINE)) == 1 for number in ("one", "two", "three"))
    words = ["--config-file", "farm.yaml", "SOLVER.CHECKPOINT_PERIOD", "2"]
    program["main"](default_argument_parser().parse_args(words))
    written = json.loads((tmp_path / "output/openworld_results.json").read_text())
    assert written["strict"]["task"] == 1 and written["ore"]["mode"] == "ore" and written["strict"]["images"] == 8
    saved = torch.load(tmp_path / "output/model_final.pth", weights_only=True)["model"]
    assert saved["roi_heads.head.clustering.prototypes.seen"].any()
    lines = (tmp_path / "output/metrics.json").read_text().splitlines()
    assert any({"loss_clustering", "loss_cls"} <= set(json.loads(line)) for line in lines)

    again = default_argument_parser().parse_args(["--resume", *words[:2], "SOLVER.MAX_ITER", "6"])
    for name in DatasetCatalog.list():
        if name.startswith("farm_"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    program["main"](again)
    assert torch.load(tmp_path / "output/model_final.pth", weights_only=True)["iteration"] == 5


def test_the_decision_is_fitted_as_the_page_says(program, small_cfg):
    data = program["open_data"](program["FARM"])
    model = build_model(small_cfg(known=[], tasks="tasks.yaml", task=1))
    wrapped = torch.nn.DataParallel(model)  # as DistributedDataParallel, which a trainer of several processes has
    assert OpenWorldRCNN.around(wrapped, min_size=64, max_size=96).model is model
    engine = OpenWorldRCNN.around(model, min_size=64, max_size=96)
    assert "min_size=800" in PAGE.read_text() and not engine.head.scorer.fitted
    summary = fit_decision(engine, data.val, data.tasks, 1)
    assert summary["fit"] == "known" and summary["status"] == engine.head.status()
    assert summary["unknown_count"] > 0 and engine.head.scorer.fitted == (summary["kind"] != "none")
