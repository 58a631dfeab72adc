"""The tables of `openworld.py` in markdown, and which goals hold."""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from openworld_rows import KEEPING, ROWS, SIMPLE
from openworld_runs import Bench
from scipy import stats

RECALL = "0.5"
"""Of known objects, at which the tables compare A-OSE."""
Column = Callable[[dict[str, Any]], float | None]
Columns = dict[str, Column]
COLUMNS: Columns = {
    "mAP previous": lambda r: r["map_previous"],
    "mAP current": lambda r: r["map_current"],
    "mAP both": lambda r: r["map_both"],
    "U-Recall@10": lambda r: r["u_recall_10"],
    "U-AP": lambda r: r["u_ap"],
    "U-F1": lambda r: r["u_f1"],
    "H-score": lambda r: r["h_score"],
    "forgetting": lambda r: r["forgetting"],
}
KINDS: Columns = {
    "later tasks' classes": lambda r: r["u_recall_10_by_kind"]["later"],
    "never labelled": lambda r: r["u_recall_10_by_kind"]["far_seen"],
    "in the test only": lambda r: r["u_recall_10_by_kind"]["far_new"],
}
"""U-Recall@10 of them."""
ERRORS: Columns = {
    "A-OSE detections": lambda r: r["a_ose_at_recall"][RECALL],
    "A-OSE objects": lambda r: r["a_ose_objects_at_recall"][RECALL],
    "WI": lambda r: r["wi"],
    "AUROC": lambda r: r["auroc"],
    "ECE": lambda r: r["ece"],
    "distractors @10": lambda r: r["distractor_recall_10"],
    "unknown an image": lambda r: r["unknown_per_image"],
    "purity": lambda r: r["purity"],
    "times random": lambda r: r["purity_times_random"],
    "on old classes": lambda r: r["pseudo_on_old"],
    "s a step": lambda r: r["seconds_per_step"],
}
TITLES = {
    "main": "Main rows",
    "part": "Ours with one part changed",
    "few": "A tenth of the first task's labels",
}
Stored = dict[str, dict[int, dict[str, Any]]]
"""Results by row and seed."""


def table(bench: Bench) -> str:
    """Everything that is stored: mean and standard deviation over seeds."""
    stored = read(bench)
    if not stored:
        return "Nothing is measured yet.\n"
    lines = [
        f"## OpenScenes {bench.arguments.variant}, {bench.arguments.recipe}",
        "",
        *_circumstances(stored),
        "",
    ]
    for group, heading in TITLES.items():
        names = [name for name, row in ROWS.items() if row.group == group]
        shown = [name for name in (["ours", *names] if group == "part" else names) if name in stored]
        if not any(ROWS[name].group == group for name in shown):
            continue
        most = max(len(result["tasks"]) for name in shown for result in stored[name].values())
        for task in range(1, (2 if group == "part" else most) + 1):
            lines += [f"### {heading}, after task {task}", ""]
            lines += [*_block(stored, shown, task, COLUMNS), ""]
            lines += ["U-Recall@10 by what is unknown:", "", *_block(stored, shown, task, KINDS), ""]
            lines += [*_block(stored, shown, task, ERRORS), ""]
        same = [ROWS[name].title for name in names if bench.is_ours(ROWS[name])]
        if same:
            lines += [f"As ours is: {'; '.join(same)}.", ""]
    lines += ["### Goals", "", *(f"- {sentence}" for sentence in goals(stored))]
    return "\n".join(lines) + "\n"


def read(bench: Bench) -> Stored:
    """What is stored, without rows that are no longer asked for."""
    stored: Stored = {}
    for path in sorted((bench.folder / "results").glob("*.json")):
        result = json.loads(path.read_text())
        if result["row"] in ROWS:
            stored.setdefault(result["row"], {})[result["seed"]] = result
    return stored


def _circumstances(stored: Stored) -> list[str]:
    results = [result for seeds in stored.values() for result in seeds.values()]
    machines = sorted({f"{result['hardware']}" for result in results})
    revisions = sorted({str(result["surroundings"]["git"])[:12] for result in results})
    commands = sorted({" ".join(result["command"]) for result in results})
    seeds = sorted({result["seed"] for result in results})
    test = results[0]["tasks"][0]
    lines = [
        f"{test['images']} test images, seeds {', '.join(map(str, seeds))}; mean ± standard deviation over seeds; at "
        f"most 10 unknown detections an image; fractions. A-OSE where known recall is {RECALL}. AUROC and ECE are of "
        "the posterior; of the simple baselines AUROC is by the score. Purity is that of the task's training stage; "
        "seconds a step depend on what else the machine did.",
        "",
        f"Hardware: {'; '.join(machines)}. Revision: {', '.join(revisions)}.",
        "",
        *(f"    python {command}" for command in commands),
    ]
    scales = {result["scale"] for result in results}
    if scales != {1.0}:
        lines += ["", f"Stages at {', '.join(f'{scale:g}' for scale in sorted(scales))} of the recipe's length."]
    return lines


def _block(
    stored: Stored, names: Sequence[str], task: int, columns: dict[str, Callable[..., float | None]]
) -> list[str]:
    """One table; columns in which nothing is defined are left out."""
    cells = {
        name: {title: values(stored, name, task, column) for title, column in columns.items()}
        for name in names
        if any(len(result["tasks"]) >= task for result in stored[name].values())
    }
    used = [title for title in columns if any(row[title] for row in cells.values())]
    lines = [f"| | {' | '.join(used)} | seeds |", "|---" * (len(used) + 2) + "|"]
    for name, row in cells.items():
        count = sum(len(result["tasks"]) >= task for result in stored[name].values())
        lines.append(f"| {ROWS[name].title} | {' | '.join(spread(row[title]) for title in used)} | {count} |")
    return lines


def values(stored: Stored, name: str, task: int, column: Column) -> list[float]:
    """A figure of a row after a task, of each seed where it is defined."""
    results = [result["tasks"][task - 1] for result in stored.get(name, {}).values() if len(result["tasks"]) >= task]
    return [value for value in map(column, results) if value is not None]


def spread(numbers: Sequence[float]) -> str:
    if not numbers:
        return "–"
    digits = 3 if max(map(abs, numbers)) < 10 else 1
    middle = f"{statistics.mean(numbers):.{digits}f}"
    return f"{middle} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else middle


# --- goals -----------------------------------------------------------------------------------------------------------


def goals(stored: Stored) -> list[str]:
    """Which goals hold and which are missed, with their numbers; what cannot be said yet is said to be so."""
    tasks = range(1, 1 + max((len(r["tasks"]) for r in stored.get("ours", {}).values()), default=0))
    judged = [
        *(
            _against_simple(stored, task, title, rows, which)
            for rows, which in ((SIMPLE, "the best simple baseline's"), (KEEPING, "the best's that keeps mAP"))
            for title in ("U-Recall@10", "U-AP")
            for task in tasks
        ),
        *(_known_kept(stored, task) for task in tasks),
        *(_open_set_errors(stored, task) for task in tasks),
        *(_purity(stored, task) for task in tasks),
        _replay(stored),
        *(_leak(stored, task) for task in tasks if task <= 2),
        _few_labels(stored),
    ]
    return [sentence for sentence in judged if sentence]


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**missed**"


def _mean(stored: Stored, name: str, task: int, column: Column) -> float | None:
    found = values(stored, name, task, column)
    return statistics.mean(found) if found else None


def _against_simple(stored: Stored, task: int, title: str, rows: Sequence[str], which: str) -> str:
    column = COLUMNS[title]
    ours = _mean(stored, "ours", task, column)
    simple = {name: found for name in rows if (found := _mean(stored, name, task, column)) is not None}
    what = f"{title} at least 1.5 times {which}, task {task}"
    if ours is None or not simple:
        return f"{what}: not measured."
    best = max(simple, key=lambda name: simple[name])
    times = f"{ours / simple[best]:.2f} times" if simple[best] else "beyond"
    missing = "" if len(simple) == len(rows) else f" (of {len(simple)} baselines)"
    holds = ours >= 1.5 * simple[best] and ours > 0
    return f"{what}: {_verdict(holds)}: {ours:.3f}, {times} {simple[best]:.3f} ({ROWS[best].title}){missing}."


def _known_kept(stored: Stored, task: int) -> str:
    column = COLUMNS["mAP both"]
    ours, theirs = _mean(stored, "ours", task, column), _mean(stored, "finetuned", task, column)
    what = f"mAP of both not more than .01 below plain + fine-tuning, task {task}"
    if ours is None or theirs is None:
        return f"{what}: not measured."
    return f"{what}: {_verdict(ours >= theirs - 0.01)}: {ours:.3f} against {theirs:.3f} ({ours - theirs:+.3f})."


def _open_set_errors(stored: Stored, task: int) -> str:
    """At the highest known recall that both reach with every seed."""
    what = f"A-OSE lower than plain + fine-tuning's at equal known recall, task {task}"
    for level in reversed([str(tenth / 10) for tenth in range(1, 10)]):
        found = [
            _at_recall(stored, name, task, key, level)
            for key in ("a_ose_at_recall", "a_ose_objects_at_recall")
            for name in ("ours", "finetuned")
        ]
        ours, theirs, objects, of_theirs = found
        if ours is not None and theirs is not None and objects is not None and of_theirs is not None:
            return (
                f"{what}: {_verdict(ours < theirs and objects < of_theirs)}: at recall {level} {ours:.1f} detections "
                f"against {theirs:.1f}, {objects:.1f} objects against {of_theirs:.1f}."
            )
    return f"{what}: cannot be said: known recall .1 is not reached by both, or one is not measured."


def _at_recall(stored: Stored, name: str, task: int, key: str, level: str) -> float | None:
    """Mean over seeds of an A-OSE at a recall; None if a seed does not reach it."""
    found = values(stored, name, task, lambda result: result[key][level])
    asked = sum(len(result["tasks"]) >= task for result in stored.get(name, {}).values())
    return statistics.mean(found) if found and len(found) == asked else None


def _purity(stored: Stored, task: int) -> str:
    purity = _mean(stored, "ours", task, ERRORS["purity"])
    random = _mean(stored, "ours", task, lambda r: r["purity_random"])
    old = _mean(stored, "ours", task, ERRORS["on old classes"])
    what = f"pseudo-labels at least 2 times as pure as random ones, at most .05 on old classes, task {task}"
    if purity is None or random is None:
        return f"{what}: not measured."
    holds = purity >= 2 * random and purity > 0 and (old is None or old <= 0.05)
    times = f"{purity / random:.2f} times" if random else "beyond"
    on_old = "" if old is None else f", {old:.3f} on old classes"
    return f"{what}: {_verdict(holds)}: {purity:.3f}, {times} {random:.3f}{on_old}."


def _replay(stored: Stored) -> str:
    column = COLUMNS["mAP previous"]
    ours, without = values(stored, "ours", 2, column), values(stored, "replay_none", 2, column)
    what = "old classes kept far better with replay than without, task 2"
    if not ours or not without:
        return f"{what}: not measured."
    holds = statistics.mean(ours) >= 2 * statistics.mean(without) and statistics.mean(ours) > 0
    return f"{what} (at least twice the mAP): {_verdict(holds)}: {spread(ours)} against {spread(without)}."


def _leak(stored: Stored, task: int) -> str:
    """What a fit on labels of future classes would bring."""
    known = "fit_known" if "fit_known" in stored else "ours"
    parts = []
    for title, column in (COLUMNS | ERRORS).items():
        if title not in ("U-Recall@10", "U-AP", "A-OSE objects", "AUROC", "ECE"):
            continue
        leaked, ours = _mean(stored, "fit_oracle", task, column), _mean(stored, known, task, column)
        if leaked is not None and ours is not None:
            parts.append(f"{title} {leaked - ours:+.3f}")
    return f"leak gap, oracle fit less known-only fit, task {task}: {', '.join(parts) or 'not measured'}."


def _few_labels(stored: Stored) -> str:
    """Paired over seeds, with Student's 95 % interval of the mean difference."""
    parts, shared = [], sorted(stored.get("few_ssl", {}).keys() & stored.get("few_random", {}).keys())
    what = "scene-pretrained backbone less the random one, equal steps, 10 % of the labels"
    for title in ("mAP both", "U-Recall@10", "U-AP"):
        column = COLUMNS[title]
        pairs = [[column(stored[name][seed]["tasks"][0]) for name in ("few_ssl", "few_random")] for seed in shared]
        gains = [a - b for a, b in pairs if a is not None and b is not None]
        if len(gains) > 1:
            middle, half = statistics.mean(gains), _half_width(gains)
            clear = "" if middle - half <= 0 <= middle + half else ", clear of 0"
            parts.append(f"{title} {middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}]{clear}")
        elif gains:
            parts.append(f"{title} {gains[0]:+.3f} (one seed, no interval)")
    return f"{what}: {'; '.join(parts) or 'not measured'} ({len(shared)} seeds, 95 % intervals)."


def _half_width(numbers: Sequence[float]) -> float:
    return float(stats.t.ppf(0.975, len(numbers) - 1)) * statistics.stdev(numbers) / len(numbers) ** 0.5
