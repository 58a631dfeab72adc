"""Does the open world pay? Ours on OpenScenes against simple baselines, an oracle, and itself with one part changed.

    python benchmarks/openworld.py                                   # everything; continues where it was interrupted
    python benchmarks/openworld.py --rows ours finetuned plain       # some rows
    python benchmarks/openworld.py --rows --table docs/results/openworld.md      # nothing new, only the table
    python benchmarks/openworld.py --clustering.weight 0.3           # other settings: other results, in another folder

Main rows learn all tasks, rows that change one part two of them, rows with a tenth of the labels the first. A row
that differs only in the decision, and the simple baselines, have no training of their own: decisions are fitted and
judged on what the network says of each image, looked at once. Trainings whose first tasks are alike share it. Each
(row, seed) is stored when it is done, and runs that were killed go on where they were.

Every row may have 10 unknown detections an image, its best. The simple baselines find unknown objects in what the plain
fine-tuned detector says: 10 boxes anywhere, as large as labelled objects are; its proposals by objectness where no
known detection lies; its known detections below a threshold. Figures are those of `detection.evaluation`, mode strict.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from alternate import hardware
from openworld_measure import Trained, figures
from openworld_rows import ROWS, TRAININGS, Row
from openworld_runs import Bench
from openworld_table import table
from stored import store

from detection.evaluation import forgetting
from sslcore.storage import surroundings


def main() -> None:
    arguments, options = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    bench = Bench(arguments, options)
    print(f"results: {bench.folder}", flush=True)
    for seed in arguments.seed_list or range(arguments.seeds):
        for name in TRAININGS:
            rows = [row for row in arguments.rows if ROWS[row].training == name and wanted(bench, row, seed)]
            if rows:
                measure(bench, name, rows, seed)
    text = table(bench)
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


def wanted(bench: Bench, name: str, seed: int) -> bool:
    """Whether a row is still to be measured; one that changes nothing of ours is not."""
    path, row = result_path(bench, name, seed), ROWS[name]
    if bench.is_ours(row):
        return False
    return not path.exists() or len(json.loads(path.read_text())["tasks"]) < tasks_of(bench, row)


def tasks_of(bench: Bench, row: Row) -> int:
    most = 2 if row.group == "part" else bench.data.tasks.count
    return min(most, bench.tasks_of(TRAININGS[row.training]))


def result_path(bench: Bench, row: str, seed: int) -> Path:
    return bench.folder / "results" / f"{row}-seed{seed}.json"


def measure(bench: Bench, training: str, rows: list[str], seed: int) -> None:
    """Train what is not trained yet, and measure all rows on it task by task, so that each image is looked at once."""
    run = bench.train(training, seed)
    recipe, _ = bench.recipe(training, seed)
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in rows}
    for task in range(1, max(tasks_of(bench, ROWS[row]) for row in rows) + 1):
        trained = Trained(run, recipe, bench.data, task)
        for name in rows:
            if task <= tasks_of(bench, ROWS[name]):
                found[name].append(measure_task(bench, trained, ROWS[name], seed))
    for name, tasks in found.items():
        lost = forgetting(tasks, bench.data.tasks)
        for done, values in enumerate(tasks, start=1):
            values["forgetting"] = forgetting(tasks[:done], bench.data.tasks)["forgetting_mean"]
        store(
            result_path(bench, name, seed),
            {
                "row": name, "seed": seed, "tasks": tasks, "forgetting": lost, "scale": bench.arguments.scale,
                "recipe": bench.recipe(training, seed, ROWS[name].decision)[0].as_dict(), "command": sys.argv,
                "hardware": hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
                "threads": torch.get_num_threads(), "surroundings": surroundings(),
            },
        )  # fmt: skip
        shown = {key: tasks[-1][key] for key in ("map_both", "u_recall_10", "u_ap")}
        print(f"{name} {seed}: after task {len(tasks)}", json.dumps(shown), flush=True)


def measure_task(bench: Bench, trained: Trained, row: Row, seed: int) -> dict[str, Any]:
    if row.baseline:
        found, fit = trained.baseline(row.baseline, seed)
    else:
        found, fit = trained.decided(bench.recipe(row.training, seed, row.decision)[0].decision)
    return {**figures(trained, found, by_posterior=row.baseline is None), "fit": fit}


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Our options, and settings of the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed-list", type=int, nargs="+", help="these seeds in place of 0, 1, ...")
    parser.add_argument("--tasks", type=int, choices=(1, 2, 3, 4), default=4, help="of the main rows")
    parser.add_argument("--variant", choices=("M", "S"), default="M")
    parser.add_argument("--size", choices=("tiny", "small", "large"), help="of OpenScenes; default: the recipe's")
    parser.add_argument("--recipe", default="openscenes_small")
    parser.add_argument("--scale", type=float, default=1.0, help="of all stages' lengths, for smoke runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that compose scenes")
    parser.add_argument("--out", type=Path, default=Path(".cache/benchmarks/openworld"))
    parser.add_argument("--table", type=Path)
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
