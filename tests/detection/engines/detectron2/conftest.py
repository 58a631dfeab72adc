"""A small open-world detector in detectron2's own configuration, for the tests of this folder."""

import pytest


@pytest.fixture
def small_cfg():
    """A function (kind, **changes): a ResNet-18 pyramid or a ResNet-50 C4 network on images of 64 pixels."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    from detectron2 import model_zoo

    from detection.engines.detectron2 import add_openworld_config

    def make(kind="fpn", **openworld):
        name = {"fpn": "faster_rcnn_R_50_FPN_1x", "c4": "faster_rcnn_R_50_C4_1x"}[kind]
        cfg = model_zoo.get_config(f"COCO-Detection/{name}.yaml")
        add_openworld_config(cfg)
        model = cfg.MODEL
        model.DEVICE, model.WEIGHTS = "cpu", ""
        # Random weights behind a norm that does nothing would diverge.
        model.RESNETS.NORM, model.BACKBONE.FREEZE_AT, model.PIXEL_STD = "BN", 0, [58.0, 57.0, 57.0]
        if kind == "fpn":
            model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS, model.FPN.OUT_CHANNELS = 18, 64, 16
            model.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
            model.ROI_BOX_HEAD.FC_DIM = 32
            model.ROI_HEADS.NAME = "OpenWorldStandardROIHeads"
        else:
            model.ANCHOR_GENERATOR.SIZES = [[8, 16, 32, 64]]
            model.ROI_HEADS.NAME = "OpenWorldRes5ROIHeads"
        model.RPN.POST_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TEST = 40, 30
        model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 32
        model.OPENWORLD.KNOWN = ["circle", "square", "star"]
        model.OPENWORLD.UNKNOWNS.MIN_SIDE = 4.0
        model.OPENWORLD.UNKNOWNS.START = model.OPENWORLD.CLUSTERING.START = 0.0
        model.OPENWORLD.CLUSTERING.REFRESH = 1
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 4, 2, 0.005
        cfg.DATALOADER.NUM_WORKERS, cfg.SEED = 0, 3
        for key, value in openworld.items():
            group, _, field = key.upper().partition("__")
            node = model.OPENWORLD[group] if field else model.OPENWORLD
            node[field or group] = value
        return cfg

    return make
