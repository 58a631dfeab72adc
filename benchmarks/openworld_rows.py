"""What `openworld.py` compares: trainings, and rows that are measured on them.

A row that differs only in the decision has no training of its own, and neither have the simple baselines: they are
other ways of reading what a trained detector says.
"""

from dataclasses import dataclass
from typing import Literal

Baseline = Literal["random", "proposals", "softmax", "softmax_kept"]
Group = Literal["main", "part", "few"]

PLAIN = ("--unknowns.per_image=0", "--clustering.loss=none", "--decision.fit=none")
NO_REPLAY = ("--replay.policy=none", "--replay.share=0")


@dataclass(frozen=True)
class Training:
    """A chain of tasks.

    Attributes:
        changes: of the recipe, as on the command line.
        tasks: how many it learns; None: as many as asked for.
        pretrained: begins with the backbone pretrained on unlabelled crops of the scenes.
        few: the first task has a tenth of its images.
    """

    changes: tuple[str, ...] = ()
    tasks: int | None = 2
    pretrained: bool = False
    few: bool = False


TRAININGS = {
    "plain": Training((*PLAIN, *NO_REPLAY, "--finetune.steps=0"), tasks=None),
    "finetuned": Training(PLAIN, tasks=None),
    "ours": Training(tasks=None),
    "oracle": Training((*PLAIN, "--labels=oracle"), tasks=None),
    "label_none": Training(("--unknowns.per_image=0",)),
    "label_ore": Training(("--unknowns.compat=ore",)),
    "clustering_none": Training(("--clustering.loss=none",)),
    "clustering_hinge": Training(("--clustering.loss=hinge",)),
    "clustering_infonce": Training(("--clustering.loss=infonce",)),
    "replay_none": Training(NO_REPLAY),
    "backbone_ssl": Training(pretrained=True),
    "few_random": Training(tasks=1, few=True),
    "few_ssl": Training(tasks=1, few=True, pretrained=True),
}
"""In this order; of trainings whose first tasks are alike the later take over the first one's."""


@dataclass(frozen=True)
class Row:
    """A line of the tables.

    Attributes:
        title: as shown.
        group: main: all tasks; part: ours with one part changed, two tasks; few: a tenth of the labels, one task.
        training: what it is measured on.
        decision: changes of the recipe's decision, which alone tell it from that training's own row.
        baseline: another way of finding unknown objects in place of the detector's.
    """

    title: str
    group: Group
    training: str
    decision: tuple[str, ...] = ()
    baseline: Baseline | None = None


ROWS = {
    "random_boxes": Row("random boxes", "main", "finetuned", baseline="random"),
    "proposals": Row("proposals as unknown", "main", "finetuned", baseline="proposals"),
    "max_softmax": Row("max-softmax threshold of best F1", "main", "finetuned", baseline="softmax"),
    "max_softmax_kept": Row("max-softmax threshold that keeps mAP", "main", "finetuned", baseline="softmax_kept"),
    "plain": Row("plain", "main", "plain"),
    "finetuned": Row("plain + fine-tuning", "main", "finetuned"),
    "ours": Row("ours", "main", "ours"),
    "oracle": Row("oracle: unknown objects labelled", "main", "oracle"),
    "label_none": Row("no auto-label", "part", "label_none"),
    "label_ore": Row("auto-label: ORE's choice", "part", "label_ore"),
    "clustering_none": Row("clustering: none", "part", "clustering_none"),
    "clustering_hinge": Row("clustering: hinge", "part", "clustering_hinge"),
    "clustering_infonce": Row("clustering: InfoNCE", "part", "clustering_infonce"),
    "fit_known": Row("fit: known-only", "part", "ours", ("--decision.fit=known",)),
    "fit_oracle": Row("fit: oracle, ORE's leak", "part", "ours", ("--decision.fit=oracle",)),
    "fit_none": Row("fit: none", "part", "ours", ("--decision.fit=none",)),
    "score_energy": Row("score: energy", "part", "ours", ("--decision.score=energy",)),
    "score_max_probability": Row("score: maximum probability", "part", "ours", ("--decision.score=max_probability",)),
    "score_foreground": Row("score: 1 - p(background)", "part", "ours", ("--decision.score=foreground",)),
    "cost_01": Row("cost in known mAP: .01", "part", "ours", ("--decision.cost=0.01",)),
    "cost_03": Row("cost in known mAP: .03", "part", "ours", ("--decision.cost=0.03",)),
    "prior_even": Row("prior: one half", "part", "ours", ("--decision.prior=0.5",)),
    "apart": Row("known and unknown boxes apart", "part", "ours", ("--decision.sure=1", "--decision.doubtful=0")),
    "replay_none": Row("no replay", "part", "replay_none"),
    "backbone_ssl": Row("scene-pretrained backbone", "part", "backbone_ssl"),
    "few_random": Row("10 % of the labels, random backbone", "few", "few_random"),
    "few_ssl": Row("10 % of the labels, scene-pretrained backbone", "few", "few_ssl"),
}
SIMPLE = ("random_boxes", "proposals", "max_softmax", "max_softmax_kept")
"""Baselines that goals compare with."""
KEEPING = ("random_boxes", "proposals", "max_softmax_kept")
"""Those of them that cost known classes about nothing, as the goals ask of ours."""
