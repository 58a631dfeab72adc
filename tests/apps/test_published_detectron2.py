"""The recipes for published benchmarks on detectron2, every stage of them, on small trees of Pascal VOC and COCO."""

import json
import shlex

import pytest
from support.releases import small_releases

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from apps.cli import main

SMALL = """
--network.weights null --network.frozen_stages 0 --network.norm batch --network.min_size 64 --network.max_size 64
--network.anchors [8,16,32,64] --network.proposals_train 40 --network.proposals_test 30 --precision 32
--data.workers 0 --batch_size 2 --regions 16 --first.steps 2 --first.lr 0.001 --later.steps 2 --later.lr 0.001
--finetune.steps 1 --clustering.refresh 1 --tasks 2 --devices 1 --threads 1
"""


@pytest.mark.parametrize(
    ("recipe", "more"),
    [
        ("ore_resnet50_c4_detectron2_m_owodb", ""),
        ("openworld_resnet50_fpn_detectron2_m_owodb", "--network.pyramid 16 --network.representation 32"),
    ],
)
def test_every_stage_of_a_published_benchmark_runs(tmp_path, monkeypatch, capsys, recipe, more):
    small_releases(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("apps.detect_train.write_detection_report", lambda path, data: None)

    def surnia(line):
        capsys.readouterr()
        code = main(["detect", *shlex.split(line)])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    surnia("data owod --tasks m_owodb --voc VOCdevkit --coco coco --out data/m_owodb --val 1 --as-published")
    surnia(f"train {recipe} --run runs/it {SMALL.replace(chr(10), ' ')} {more}")
    results = json.loads((tmp_path / "runs/it/results.json").read_text())
    assert [done["task"] for done in results["by_task"]] == [1, 2] and results["recipe"]["engine"] == "detectron2"
    assert results["by_task"][0]["ore"]["num_unknown_gt"] == 5
    assert set(results["by_task"][1]["loss"]) == {"train", "finetune"}
    assert "mode ore" in surnia("evaluate runs/it --mode ore --task 2")
    assert "m_owodb after task 2" in surnia("report runs/it --no-page")
