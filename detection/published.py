"""Published numbers, read from the one file that holds them (`configs/detection/published/owod.yaml`).

They are not mutually comparable: every row says which evaluator it used.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sslcore.yaml_source import read_yaml

PERCENT = ("map_previous", "map_current", "map_both", "u_recall", "u_ap")
"""What the file gives in percent."""


@dataclass(frozen=True)
class PublishedRow:
    """What one method reports on one benchmark.

    Attributes:
        method: its name.
        source: where it is published.
        seen: where the numbers were read: "table", "thread", "summary" or "memory".
        from_memory: metrics that are from memory although `seen` says otherwise of the row.
        evaluator: mode, ap, list, score_floor, per_image and note; None for what is not stated.
        by_task: metrics by task, from 1, under the evaluator's names; fractions, and counts for `a_ose`.
    """

    method: str
    source: str
    seen: str
    from_memory: tuple[str, ...]
    evaluator: dict[str, Any]
    by_task: dict[int, dict[str, float]]


@cache
def _content() -> Any:
    file = Path(__file__).resolve().parents[1] / "configs" / "detection" / "published" / "owod.yaml"
    return read_yaml(file.read_text(encoding="utf-8"), name=str(file), what="file of published numbers").values


def benchmarks() -> list[str]:
    """Names of the task sets that something is published on."""
    return list(_content()["benchmarks"])


def published_counts(benchmark: str) -> dict[str, Any]:
    """How large a benchmark is: images and instances, as lists by task where it has tasks."""
    return dict(_content()["benchmarks"][benchmark]["counts"])


def published_rows(benchmark: str) -> list[PublishedRow]:
    """What is published on a benchmark; [] for any other task set."""
    found = _content()["benchmarks"].get(benchmark, {"results": []})
    evaluators = _content()["evaluators"]
    return [
        PublishedRow(
            row["method"],
            row["source"],
            row["seen"],
            tuple(row.get("from_memory", ())),
            evaluators[row["evaluator"]],
            {int(task): _as_fractions(values) for task, values in row["by_task"].items()},
        )
        for row in found["results"]
    ]


def _as_fractions(values: dict[str, float]) -> dict[str, float]:
    return {name: value / 100 if name in PERCENT else value for name, value in values.items()}
