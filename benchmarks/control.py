"""What do the contrastive loss, the augmentation and the frame stack bring? Agents from pixels, several seeds a row.

    python benchmarks/control.py                                     # everything; continues where it was interrupted
    python benchmarks/control.py --tasks pixelreach --threads 1      # one task; two such, with other --seed-list, side
    python benchmarks/control.py --seed-list 1 3                     #   by side use two cores better than two threads
    python benchmarks/control.py --rows --table docs/results/control.md          # nothing new, only the tables
    python benchmarks/control.py --scale 0.05 --seeds 2 --out /tmp/smoke         # does it work?

Rows are the recipe with one thing changed, trained for as many environment steps. All are evaluated on the same
episodes; the returns compared are those of the last evaluation, not of the best one. Each (row, seed) is stored when it
is done, and runs that were killed go on where they were.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from alternate import hardware
from control_rows import ROWS, TASKS
from control_runs import Bench
from control_table import table
from stored import store

from sslcore.errors import SurniaError
from sslcore.storage import surroundings


def main() -> None:
    arguments, options = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    benches = {task: Bench(task, arguments, options) for task in arguments.tasks}
    failed = [sentence for bench in benches.values() for sentence in measure_all(bench)]
    text = "\n".join(table(bench) for bench in benches.values())
    print(text)
    if arguments.table:
        arguments.table.write_text(text)
    if failed:
        raise SystemExit("\n".join(failed))


def measure_all(bench: Bench) -> list[str]:
    """Whatever is not stored yet, one seed of all rows after the other; what could not be measured, as sentences."""
    print(f"results: {bench.folder}", flush=True)
    failed: list[str] = []
    for seed in bench.seeds:
        for name in bench.arguments.rows:
            if ROWS[name].task != bench.task_name or bench.result_path(name, seed).exists():
                continue
            try:
                measure(bench, name, seed)
            except SurniaError as error:
                failed.append(f"{name}, seed {seed}: {error}")
    return failed


def measure(bench: Bench, name: str, seed: int) -> None:
    """Play or train one seed of a row, and store what came out."""
    wall, cpu = time.perf_counter(), time.process_time()
    found: dict[str, Any] = bench.play(name) if ROWS[name].anchor else bench.train(name, seed)
    spent = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    # A run that was interrupted has spent more than this process has seen: what a step takes is scaled to all of them.
    share = found.pop("share", 1.0)
    if share:
        found |= {key: value / share for key, value in spent.items()}
    store(
        bench.result_path(name, seed),
        {
            "row": name, "seed": seed, **found, "scale": bench.arguments.scale, "command": sys.argv,
            "recipe": bench.recipe(name, seed)[0].as_dict(), "threads": torch.get_num_threads(),
            "hardware": hardware(torch.device(bench.device)), "surroundings": surroundings(),
        },
    )  # fmt: skip
    print(f"{name} {seed}: {found['score']:.1f} in {spent['cpu_seconds']:.0f} CPU seconds", flush=True)


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Our options, and settings of the recipes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, help="of each row (default: 5, and 3 of dm_control)")
    parser.add_argument("--seed-list", type=int, nargs="+", help="these seeds in place of 0, 1, ...")
    parser.add_argument("--scale", type=float, default=1.0, help="of the trainings' lengths, for smoke runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(".cache/benchmarks/control"))
    parser.add_argument("--table", type=Path)
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
