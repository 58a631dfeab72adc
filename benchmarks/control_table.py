"""The tables of `control.py` in markdown, and which goals hold."""

import json
import statistics
from typing import Any

from control_rows import OURS, RANDOM, ROWS
from control_runs import Bench

from rl.training.statistics import difference, interquartile_mean, probability_of_improvement

CORES = 2
FAR_ABOVE = 5
"""Times random's score that every seed's must be, to be called far above it."""
Stored = dict[str, list[dict[str, Any]]]
"""Results of a row, by seed; an anchor has one."""


def table(bench: Bench) -> str:
    """Everything about a task that is stored."""
    stored = read(bench)
    if not stored:
        return f"## {bench.task.title}\n\nNothing is measured yet.\n"
    lines = [
        f"## {bench.task.title}", "", *_circumstances(bench, stored), "",
        *_scores(bench, stored), "",
        *_differences(bench, stored),
        "### Goals", "", *(f"- {sentence}" for sentence in goals(bench, stored)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def read(bench: Bench) -> Stored:
    """What is stored, in the order of the rows and without those that are no longer asked for."""
    found: Stored = {}
    for path in sorted((bench.folder / "results").glob("*.json")):
        result = json.loads(path.read_text())
        found.setdefault(result["row"], []).append(result)
    ordered = {name: found[name] for name, row in ROWS.items() if row.task == bench.task_name and name in found}
    return {name: sorted(results, key=lambda result: result["seed"]) for name, results in ordered.items()}


def _circumstances(bench: Bench, stored: Stored) -> list[str]:
    results = [result for row in stored.values() for result in row]
    recipe, task = results[0]["recipe"], bench.task
    episodes = recipe["evaluation"]["episodes"]
    settings = recipe["agent"]
    lines = [
        f"Recipe {task.recipe}: {recipe['steps']:,} environment steps, {settings['learning_starts']:,} of them random, "
        f"frames cropped to {settings['image_size']} pixels, batch {settings['batch_size']}. Returns, of at most "
        f"{task.most:g}, are those of the last evaluation: {episodes} episodes, the same for all. IQM: interquartile "
        "mean over seeds, with its bootstrap 95 % interval (10 000 draws). CPU seconds are of a whole run, evaluations "
        "and checkpoints included.",
        "",
        f"Hardware: {'; '.join(sorted({result['hardware'] for result in results}))}. "
        f"Revision: {', '.join(sorted({str(result['surroundings']['git'])[:12] for result in results}))}.",
        "",
        *(f"    python {command}" for command in sorted({" ".join(result["command"]) for result in results})),
    ]
    scales = {result["scale"] for result in results}
    if scales != {1.0}:
        lines += ["", f"Trainings are at {', '.join(f'{scale:g}' for scale in sorted(scales))} of the recipe's length."]
    return lines


# --- tables ----------------------------------------------------------------------------------------------------------


def _scores(bench: Bench, stored: Stored) -> list[str]:
    wanted = bench.task.wanted
    to_wanted = [] if wanted is None else [f"steps to {wanted:g}", "seeds that reach it"]
    columns = ["IQM", "mean of each seed", *to_wanted, "CPU s", "seeds"]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, results in stored.items():
        if ROWS[name].anchor:
            cells = [f"{results[0]['score']:.1f}", f"{len(results[0]['returns'])} episodes", *["–"] * len(to_wanted)]
            cells += ["–", "–"]
        else:
            scores = [result["score"] for result in results]
            cells = [str(interquartile_mean(scores)), ", ".join(f"{score:.1f}" for score in scores)]
            cells += [] if wanted is None else [_median_steps(results), f"{len(_reached(results))} of {len(results)}"]
            cells += [f"{statistics.mean(_seconds(results)):.0f}" if _seconds(results) else "–", str(len(results))]
        lines.append(f"| {ROWS[name].title} | {' | '.join(cells)} |")
    return lines


def _reached(results: list[dict[str, Any]]) -> list[int]:
    return [result["steps_to_wanted"] for result in results if result["steps_to_wanted"] is not None]


def _median_steps(results: list[dict[str, Any]]) -> str:
    """Over all seeds; one that does not get there takes longer than any number."""
    steps = sorted([*_reached(results), *[float("inf")] * (len(results) - len(_reached(results)))])
    middle = statistics.median_low(steps)
    return f"{middle:,.0f}" if middle < float("inf") else "not reached"


def _seconds(results: list[dict[str, Any]]) -> list[float]:
    return [result["cpu_seconds"] for result in results if "cpu_seconds" in result]


def _differences(bench: Bench, stored: Stored) -> list[str]:
    """Ours less each other training."""
    ours = stored.get(OURS[bench.task_name], [])
    others = [name for name in stored if name != OURS[bench.task_name] and not ROWS[name].anchor]
    if not ours or not others:
        return []
    columns = ["IQM of ours less its", "probability that ours is higher"]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in others:
        scores = _of_seeds(ours), _of_seeds(stored[name])
        chance = probability_of_improvement(*scores)
        higher = f"{chance.value:.2f} ({chance.low:.2f} to {chance.high:.2f})"
        lines.append(f"| {ROWS[name].title} | {difference(*scores)} | {higher} |")
    return [*lines, ""]


def _of_seeds(results: list[dict[str, Any]]) -> list[float]:
    return [result["score"] for result in results]


# --- goals -----------------------------------------------------------------------------------------------------------


def goals(bench: Bench, stored: Stored) -> list[str]:
    """Which goals hold and which are missed, with their numbers; what cannot be said yet is said to be so."""
    judged = [_above_random(bench, stored), _time(bench, stored)]
    if bench.task_name == "pixelreach":
        judged += [
            _pays(stored, "aux_none", "the contrastive loss helps"),
            _pays(stored, "augmentation_none", "random crops help"),
            _pays(stored, "stack_1", "a stack of three frames beats one frame"),
        ]
    return judged


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**missed**"


def _above_random(bench: Bench, stored: Stored) -> str:
    what = f"Every seed at least {FAR_ABOVE} times random actions"
    ours, random = stored.get(OURS[bench.task_name]), stored.get(RANDOM[bench.task_name])
    if not ours or not random:
        return f"{what}: not measured."
    least, chance = min(_of_seeds(ours)), random[0]["score"]
    holds = least >= FAR_ABOVE * chance and least > 0
    return f"{what}: {_verdict(holds)}: the lowest of {len(ours)} is {least:.1f}, random {chance:.1f}."


def _time(bench: Bench, stored: Stored) -> str:
    """CPU seconds stand for time on the clock, which says little on a busy machine."""
    results, minutes = stored.get(OURS[bench.task_name], []), bench.task.minutes
    what, spent = f"A seed in {minutes:g} minutes on {CORES} cores", _seconds(results)
    if not spent:
        return f"{what}: not measured."
    threads = min(CORES, max(result["threads"] for result in results))
    allowed = threads * 60 * minutes
    verdict = f"{_verdict(max(spent) <= allowed)}: the slowest took {max(spent):.0f} CPU seconds"
    return f"{what}: {verdict} of {allowed:.0f} with {threads} thread{'s' if threads > 1 else ''}."


def _pays(stored: Stored, without: str, what: str) -> str:
    """Claimed only where the interval of the difference lies above 0."""
    ours, theirs = stored.get("ours"), stored.get(without)
    sentence = f"That {what} ({ROWS['ours'].title} against {ROWS[without].title})"
    if not ours or not theirs or min(len(ours), len(theirs)) < 2:
        return f"{sentence}: cannot be said yet, with fewer than two seeds of each."
    gain = difference(_of_seeds(ours), _of_seeds(theirs))
    steps = f"steps to it: {_median_steps(ours)} against {_median_steps(theirs)}"
    if gain.low > 0:
        return f"{sentence}: shown, IQM {gain}; {steps}."
    return f"{sentence}: **not shown**, IQM {gain}{', which is a loss' if gain.high < 0 else ''}; {steps}."
