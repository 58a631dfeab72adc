"""Side-by-side timing that all benchmark scripts share: every form in turn, medians, ratios round by round.

Whatever else the machine does disturbs all forms alike; the ratio of a round is taken within that round.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Forms = Mapping[str, Callable[[], object]]
"""Ways to do the same thing, by name; the first is ours, what the others are divided by."""


def measure(
    forms: Forms,
    *,
    rounds: int,
    device: torch.device,
    calls: int = 1,
    items: int = 0,
    seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """A row a form: median and least milliseconds of a call, times ours, and items a second if `items` are made by one.

    Stops after `rounds`, or when `seconds` are up, but never before three rounds. `time.process_time` as the clock
    counts what the processor spends on this process: on a busy machine, with one thread, that is steadier.
    """
    times: dict[str, list[float]] = {name: [] for name in forms}
    for run in forms.values():
        run()  # first touches of memory are nobody's cost
    began = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - began > seconds:
            break
        for name, run in forms.items():
            synchronize(device)
            start = clock()
            for _ in range(calls):
                run()
            synchronize(device)
            times[name].append((clock() - start) / calls * 1e3)
    ours = next(iter(times.values()))
    return [
        {
            "form": name,
            "median_ms": statistics.median(spent),
            "min_ms": min(spent),
            "times_ours": statistics.median(other / mine for other, mine in zip(spent, ours, strict=True)),
            "rounds": len(spent),
            **({"per_second": items / statistics.median(spent) * 1e3} if items else {}),
        }
        for name, spent in times.items()
    ]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """Markdown; columns that no row has are left out."""
    columns = {"median ms": "median_ms", "min ms": "min_ms", "times ours": "times_ours"}
    columns |= {"a second": "per_second", "extra MB": "extra_mb"}
    shown = {head: key for head, key in columns.items() if any(key in row for row in rows)}
    lines = [f"### {title}", "", f"| form | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row['form']} | {' | '.join(_cell(row.get(key)) for key in shown.values())} |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def processor() -> str:
    """The CPU's name."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def hardware(device: torch.device) -> str:
    """What a result was measured on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{processor()} ({torch.backends.cpu.get_cpu_capability()})"
    return f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
