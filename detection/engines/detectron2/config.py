"""Open-world settings in detectron2's yacs configurations, and Surnia's networks in detectron2's words."""

from typing import TypeVar

from detectron2.config import CfgNode, get_cfg
from pydantic import ValidationError

from detection.engines.settings import NetworkSettings
from detection.openworld.head import OpenWorldHead
from detection.openworld.settings import ClusteringSettings, DecisionSettings, UnknownSettings
from detection.tasks import TaskSet
from sslcore.errors import ConfigError
from sslcore.settings import Settings

GROUPS: dict[str, type[Settings]] = {
    "UNKNOWNS": UnknownSettings,
    "CLUSTERING": ClusteringSettings,
    "DECISION": DecisionSettings,
}
"""Under MODEL.OPENWORLD; their keys are the fields of Surnia's recipes in capitals."""

ZOO = "detectron2:"
"""What stands before a file of detectron2's model zoo among weights."""

AnySettings = TypeVar("AnySettings", bound=Settings)


def add_openworld_config(cfg: CfgNode) -> None:
    """Add MODEL.OPENWORLD with its defaults, before a file is merged that sets them.

    MODEL.OPENWORLD.TASKS names a task file, or one that ships ("m_owodb"), and TASK the task to learn; KNOWN lists the
    classes instead. COMPAT "ore": outputs for all classes of the task file from the start. The heads are chosen as
    ever: MODEL.ROI_HEADS.NAME "OpenWorldStandardROIHeads" or "OpenWorldRes5ROIHeads".
    """
    node = CfgNode()
    node.TASKS, node.TASK, node.KNOWN, node.COMPAT = "", 1, [], None
    for name, settings in GROUPS.items():
        node[name] = CfgNode({field.upper(): value for field, value in settings().model_dump().items()})
    cfg.MODEL.OPENWORLD = node
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "OpenWorldRPN"


def open_world_head(cfg: CfgNode, dim: int) -> OpenWorldHead:
    """The open-world parts that a configuration describes.

    Args:
        cfg: with `add_openworld_config`'s settings.
        dim: length of a region's embedding.

    Raises:
        ConfigError: a setting is wrong, or there are no classes.
    """
    if "OPENWORLD" not in cfg.MODEL:
        raise ConfigError(
            "the configuration has no MODEL.OPENWORLD: call add_openworld_config(cfg) before merging files into it"
        )
    node = cfg.MODEL.OPENWORLD
    if not node.KNOWN and not node.TASKS:
        raise ConfigError("MODEL.OPENWORLD names no classes: give a task file as TASKS, or names as KNOWN")
    tasks = TaskSet.from_file(node.TASKS) if node.TASKS else TaskSet("known", (tuple(node.KNOWN),))
    if not 1 <= node.TASK <= tasks.count:
        raise ConfigError(f"MODEL.OPENWORLD.TASK is {node.TASK}, but {tasks.name} has the tasks 1 to {tasks.count}")
    heads = cfg.MODEL.ROI_HEADS
    return OpenWorldHead(
        tuple(node.KNOWN) or tasks.known(node.TASK),
        dim,
        unknowns=_read(cfg, "UNKNOWNS", UnknownSettings),
        clustering=_read(cfg, "CLUSTERING", ClusteringSettings),
        decision=_read(cfg, "DECISION", DecisionSettings),
        regions=heads.BATCH_SIZE_PER_IMAGE,
        positive=heads.POSITIVE_FRACTION,
        seed=max(0, cfg.SEED),
        classes=len(tasks.classes) if node.COMPAT == "ore" else None,
    )


def _read(cfg: CfgNode, name: str, settings: type[AnySettings]) -> AnySettings:
    try:
        return settings.model_validate({key.lower(): value for key, value in cfg.MODEL.OPENWORLD[name].items()})
    except ValidationError as error:
        problems = [
            f"MODEL.OPENWORLD.{name}.{'.'.join(map(str, each['loc'])).upper()}: {each['msg']}, not {each['input']!r}"
            for each in error.errors()
        ]
        raise ConfigError(*problems) from error


def refuse_other_heads(cfg: CfgNode) -> None:
    """ConfigError if masks or keypoints are asked for: which regions they are of is not said by these heads."""
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key]:
            raise ConfigError(f"MODEL.{key} is true, but open-world heads find boxes only: set it to false")


# --- Surnia's networks -----------------------------------------------------------------------------------------------


def config_of(network: NetworkSettings) -> CfgNode:
    """detectron2's configuration of a network that a recipe describes; classes and open-world settings are not in it.

    Weights that are no file of detectron2's zoo are torchvision's in form: the stride of a bottleneck in its 3x3
    convolution, and RGB. The zoo's are as the original ResNets: in its first 1x1, and BGR.

    Raises:
        ConfigError: the network is none of detectron2's.
    """
    depth = {"resnet18_fpn": 18, "resnet50_fpn": 50, "resnet50_c4": 50}.get(network.name)
    if depth is None:
        raise ConfigError(
            f"network.name: {network.name} is not detectron2's; use resnet18_fpn, resnet50_fpn or resnet50_c4"
        )
    from_zoo = (network.weights or "").startswith(ZOO)
    cfg = get_cfg()
    add_openworld_config(cfg)
    model = cfg.MODEL
    model.DEVICE, model.MASK_ON = "cpu", False
    model.RESNETS.DEPTH, model.RESNETS.STRIDE_IN_1X1 = depth, from_zoo
    model.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    model.RESNETS.NORM = {"batch": "BN", "frozen": "FrozenBN"}[network.norm]
    model.BACKBONE.FREEZE_AT = network.frozen_stages
    cfg.INPUT.FORMAT = "BGR" if from_zoo else "RGB"
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(network.ratios)]
    model.RPN.BATCH_SIZE_PER_IMAGE = network.anchors_sampled
    model.RPN.IOU_THRESHOLDS = list(network.anchor_iou)
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.PRE_NMS_TOPK_TRAIN = network.proposals_train
    model.RPN.POST_NMS_TOPK_TEST = network.proposals_test
    model.RPN.PRE_NMS_TOPK_TEST = max(network.proposals_test, min(2 * network.proposals_test, 2000))
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = not network.per_class_boxes
    (_as_c4 if network.name.endswith("_c4") else _as_pyramid)(cfg, network)
    return cfg


def _as_c4(cfg: CfgNode, network: NetworkSettings) -> None:
    model = cfg.MODEL
    if network.representation != 2048:
        raise ConfigError(
            f"network.representation is {network.representation}, but a region's embedding is the output of res5 in "
            "resnet50_c4: set it to 2048"
        )
    model.BACKBONE.NAME = "build_resnet_backbone"
    model.RESNETS.OUT_FEATURES = ["res4"]
    model.ANCHOR_GENERATOR.SIZES = [list(network.anchors)]
    # One level instead of five: as detectron2's own C4 networks have it.
    model.RPN.PRE_NMS_TOPK_TRAIN = 6 * network.proposals_train
    model.RPN.PRE_NMS_TOPK_TEST = 6 * network.proposals_test
    model.ROI_HEADS.NAME = "OpenWorldRes5ROIHeads"
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 14


def _as_pyramid(cfg: CfgNode, network: NetworkSettings) -> None:
    model = cfg.MODEL
    levels = ["p2", "p3", "p4", "p5", "p6"]
    if len(network.anchors) not in (4, 5):
        raise ConfigError(
            f"network.anchors has {len(network.anchors)} sizes, but {network.name} has 5 levels in detectron2 (strides "
            "4 to 64), the last of which may be left out: give 4 or 5 sizes"
        )
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.OUT_CHANNELS = network.pyramid
    model.RPN.IN_FEATURES = levels[: len(network.anchors)]
    model.RPN.CONV_DIMS = [-1]
    model.ANCHOR_GENERATOR.SIZES = [[size] for size in network.anchors]
    model.ROI_HEADS.NAME = "OpenWorldStandardROIHeads"
    model.ROI_HEADS.IN_FEATURES = levels[:4]
    box = model.ROI_BOX_HEAD
    box.NAME, box.NUM_FC, box.FC_DIM, box.POOLER_RESOLUTION = "FastRCNNConvFCHead", 2, network.representation, 7
