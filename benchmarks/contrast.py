"""What the losses cost, forward and backward, beside other implementations and the floor of the matrix products.

    python benchmarks/contrast.py                          # all cases; about ten minutes on two cores
    python benchmarks/contrast.py --only nt-xent --threads 1 --json result.json

All forms of a case work on the same tensors and alternate within one process, so that whatever else the machine does
disturbs all alike. Times are medians; ratios are medians over the rounds of that round's ratio to ours. The floor is
the time of the matrix products alone that the arithmetic cannot do without, in tiles, measured in the same rounds.
Extra memory is the high-water mark of one step above what stood before it, each form in a process of its own.

The other packages are optional and belong in a folder of their own (they want older libraries than ours):

    pip install --no-deps --target PEERS lightly lightly-utils pytorch-metric-learning info-nce-pytorch tqdm
    PYTHONPATH=PEERS python benchmarks/contrast.py

MoCo's, PCL's and ORE's forms are written here from what their published code computes.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from alternate import hardware, measure, table
from torch import Tensor
from torch.nn.functional import cross_entropy, hinge_embedding_loss, normalize

from sslcore.losses import hinge_clustering, info_nce, nt_xent, proto_nce, sup_con

T = 0.07
DIM = 128
PEERS = ("lightly", "pytorch-metric-learning", "info-nce-pytorch")
OURS = "Surnia"


@dataclass
class Case:
    """Forms of one loss on the same tensors; ours first."""

    title: str
    inputs: list[Tensor]  # those that get gradients
    forms: dict[str, Callable[[], Tensor]]
    floor: Callable[[], object]  # the matrix products alone

    def step(self, form: str) -> None:
        for x in self.inputs:
            x.grad = None
        self.forms[form]().backward()


def peer(module: str, name: str) -> Callable[..., Any] | None:
    """A loss of another package, or None where it is not installed."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, RuntimeError):
        return None


def leaf(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape, device=device, requires_grad=True)


# The cases. Each yields its forms in a dictionary; a package that is missing just leaves its line out.


def nt_xent_case(n: int, device: torch.device) -> Case:
    a, b = leaf(n, DIM, device=device), leaf(n, DIM, device=device)
    target = torch.arange(2 * n, device=device).roll(n)
    itself = torch.eye(2 * n, dtype=torch.bool, device=device)

    def plain() -> Tensor:
        z = normalize(torch.cat([a, b]), dim=1)
        return cross_entropy((z @ z.T / T).masked_fill(itself, -torch.inf), target)

    forms: dict[str, Callable[[], Tensor]] = {OURS: lambda: nt_xent(a, b, temperature=T), "plain PyTorch": plain}
    if lightly := peer("lightly.loss", "NTXentLoss"):
        their = lightly(temperature=T)
        forms["lightly NTXentLoss"] = lambda: their(a, b)
    images = torch.arange(n, device=device).repeat(2)
    if sup := peer("pytorch_metric_learning.losses", "SupConLoss"):
        supervised = sup(temperature=T)  # the same value, without the cubic memory of their NTXentLoss
        forms["pytorch-metric-learning SupConLoss"] = lambda: supervised(torch.cat([a, b]), images)
    if n <= 256 and (pairs := peer("pytorch_metric_learning.losses", "NTXentLoss")):
        paired = pairs(temperature=T)
        forms["pytorch-metric-learning NTXentLoss"] = lambda: paired(torch.cat([a, b]), images)

    z = torch.randn(2 * n, DIM, device=device)
    return Case(f"NT-Xent, {n} images ({2 * n} views) x {DIM}", [a, b], forms, lambda: symmetric_products(z))


def sup_con_case(n: int, classes: int, device: torch.device) -> Case:
    features = leaf(n, DIM, device=device)
    labels = torch.randint(0, classes, (n,), device=device)
    itself = torch.eye(n, dtype=torch.bool, device=device)

    def plain() -> Tensor:
        z = normalize(features, dim=1)
        log_p = (z @ z.T / T).masked_fill(itself, -torch.inf).log_softmax(1).masked_fill(itself, 0)
        positive = (labels[:, None] == labels) & ~itself
        count = positive.sum(1)
        return (-(log_p * positive).sum(1) / count.clamp(min=1))[count > 0].mean()

    forms: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: sup_con(features, labels, temperature=T),
        "plain PyTorch": plain,
    }
    if sup := peer("pytorch_metric_learning.losses", "SupConLoss"):
        their = sup(temperature=T)
        forms["pytorch-metric-learning SupConLoss"] = lambda: their(features, labels)
    z = torch.randn(n, DIM, device=device)
    return Case(f"SupCon, {n} rows x {DIM}, {classes} classes", [features], forms, lambda: symmetric_products(z))


def batch_case(n: int, device: torch.device) -> Case:
    q, k = leaf(n, DIM, device=device), leaf(n, DIM, device=device)
    target = torch.arange(n, device=device)

    def plain() -> Tensor:
        return cross_entropy(normalize(q, dim=1) @ normalize(k, dim=1).T / T, target)

    forms: dict[str, Callable[[], Tensor]] = {OURS: lambda: info_nce(q, k, temperature=T), "plain PyTorch": plain}
    if nce := peer("info_nce", "InfoNCE"):
        their = nce(temperature=T)
        forms["info-nce-pytorch"] = lambda: their(q, k)
    x = torch.randn(n, DIM, device=device)
    title = f"InfoNCE in the batch, {n} queries x {DIM}"
    return Case(title, [q, k], forms, lambda: products(x, x, of_keys=True))


def queue_case(n: int, keys: int, device: torch.device) -> Case:
    q, positive = leaf(n, DIM, device=device), torch.randn(n, DIM, device=device)
    queue = normalize(torch.randn(keys, DIM, device=device), dim=1)
    columns = queue.T.contiguous()  # MoCo keeps its queue as (d, K)
    target = torch.zeros(n, dtype=torch.long, device=device)

    def moco(clone: bool) -> Tensor:
        a, k = normalize(q, dim=1), normalize(positive, dim=1)
        negatives = columns.clone().detach() if clone else columns
        logits = torch.cat([torch.einsum("nc,nc->n", a, k)[:, None], torch.einsum("nc,ck->nk", a, negatives)], dim=1)
        logits /= T
        return cross_entropy(logits, target)

    forms: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: info_nce(q, positive, queue, temperature=T),
        "MoCo: clone, cat, cross-entropy": lambda: moco(clone=True),
        "MoCo without the clone": lambda: moco(clone=False),
    }
    if lightly := peer("lightly.loss", "NTXentLoss"):
        their = lightly(temperature=T, memory_bank_size=(keys, DIM)).to(device)
        forms["lightly NTXentLoss with memory bank"] = lambda: their(q, positive)
    if nce := peer("info_nce", "InfoNCE"):
        unpaired = nce(temperature=T)
        forms["info-nce-pytorch"] = lambda: unpaired(q, positive, queue)
    x = torch.randn(n, DIM, device=device)
    return Case(f"InfoNCE, {n} queries, {keys} x {DIM} queue", [q], forms, lambda: products(x, queue))


def prototypes_case(n: int, counts: tuple[int, ...], sampled: int, device: torch.device) -> Case:
    q = leaf(n, DIM, device=device)
    levels = [normalize(torch.randn(k, DIM, device=device), dim=1) for k in counts]
    assigned = [torch.randint(0, k, (n,), device=device) for k in counts]
    spread = [torch.rand(k, device=device) + 0.5 for k in counts]
    spread = [s / s.mean() for s in spread]

    def ours() -> Tensor:
        losses = [
            proto_nce(q, p, a, temperature=T, concentration=s) for p, a, s in zip(levels, assigned, spread, strict=True)
        ]
        return torch.stack(losses).mean()

    def plain() -> Tensor:
        z = normalize(q, dim=1)
        losses = [cross_entropy(z @ p.T / (T * s), a) for p, a, s in zip(levels, assigned, spread, strict=True)]
        return torch.stack(losses).mean()

    def pcl() -> Tensor:
        """Own prototypes of the batch and a sample of the others, drawn on the host."""
        z, total = normalize(q, dim=1), q.new_zeros(())
        for p, a, s in zip(levels, assigned, spread, strict=True):
            others = sorted(set(range(len(p))) - set(a.tolist()))
            drawn = torch.tensor(random.sample(others, min(sampled, len(others))), device=device)
            chosen = torch.cat([a, drawn])
            total = total + cross_entropy(z @ p[chosen].T / (T * s[chosen]), torch.arange(n, device=device))
        return total / len(levels)

    forms = {
        f"{OURS}, all prototypes": ours,
        "plain PyTorch, all prototypes": plain,
        f"PCL: {sampled} sampled per level": pcl,
    }
    x, every = torch.randn(n, DIM, device=device), torch.cat(levels)
    title = f"ProtoNCE, {n} x {sum(counts)} prototypes in {len(counts)} levels x {DIM}"
    return Case(title, [q], forms, lambda: products(x, every))


def clustering_case(n: int, dim: int, classes: int, device: torch.device) -> Case:
    features = torch.randn(n, dim, device=device).relu_().requires_grad_()
    labels = torch.randint(0, classes, (n,), device=device)
    prototypes = torch.randn(classes, dim, device=device).relu_()
    margin = 60.0

    def plain() -> Tensor:
        distance = torch.cdist(features, prototypes)
        own = labels[:, None] == torch.arange(classes, device=device)
        return torch.where(own, distance, (margin - distance).clamp(min=0)).sum(1).mean()

    def ore() -> Tensor:
        """Its margin as the order of the norm, and the labels one by one."""
        distance = torch.cdist(features, prototypes, p=10)
        signs = []
        for row in range(n):
            for column in range(classes):
                signs.append(1 if labels[row] == column else -1)
        return hinge_embedding_loss(distance, torch.tensor(signs, device=device).reshape(n, classes), margin=2)

    forms = {
        OURS: lambda: hinge_clustering(features, labels, prototypes, margin=margin),
        "plain PyTorch: cdist": plain,
        "ORE: cdist(p=10), loop over labels": ore,
    }
    x = features.detach()
    return Case(f"ORE's clustering, {n} x {dim}, {classes} classes", [features], forms, lambda: products(x, prototypes))


def products(q: Tensor, k: Tensor, *, of_keys: bool = False) -> None:
    """Scores of q with k and their product with k (and, `of_keys`, with q), tile by tile; nothing else."""
    out, out_of_keys = torch.zeros_like(q), torch.zeros_like(k) if of_keys else None
    rows = min(len(q), 512)
    columns = 2**20 // rows
    for i in range(0, len(q), rows):
        for j in range(0, len(k), columns):
            scores = q[i : i + rows] @ k[j : j + columns].T
            out[i : i + rows].addmm_(scores, k[j : j + columns])
            if out_of_keys is not None:
                out_of_keys[j : j + columns].addmm_(scores.T, q[i : i + rows])


def symmetric_products(z: Tensor, edge: int = 512) -> None:
    """Half of the scores of z with itself, and the product of all of them with z; nothing else."""
    out = torch.zeros_like(z)
    for i in range(0, len(z), edge):
        for j in range(i, len(z), edge):
            scores = z[i : i + edge] @ z[j : j + edge].T
            out[i : i + edge].addmm_(scores, z[j : j + edge])
            if j > i:
                out[j : j + edge].addmm_(scores.T, z[i : i + edge])


def cases(quick: bool, device: torch.device) -> dict[str, list[Callable[[], Case]]]:
    """Sections, each with the cases that build themselves when it is their turn."""
    if quick:
        return {
            "nt-xent": [lambda: nt_xent_case(16, device)],
            "sup-con": [lambda: sup_con_case(32, 4, device)],
            "batch": [lambda: batch_case(16, device)],
            "queue": [lambda: queue_case(8, 512, device)],
            "prototypes": [lambda: prototypes_case(8, (40, 80), 16, device)],
            "clustering": [lambda: clustering_case(16, 64, 5, device)],
        }
    return {
        "nt-xent": [partial(nt_xent_case, n, device) for n in (256, 1024, 4096)],
        "sup-con": [lambda: sup_con_case(2048, 100, device)],
        "batch": [partial(batch_case, n, device) for n in (256, 1024)],
        "queue": [lambda: queue_case(256, 65536, device)],
        "prototypes": [lambda: prototypes_case(256, (2500, 5000, 10000), 1024, device)],
        "clustering": [lambda: clustering_case(512, 2048, 81, device)],
    }


# Measuring.


def runs(case: Case) -> dict[str, Callable[[], object]]:
    """What is timed: a step of every form, and the floor."""
    return {form: partial(case.step, form) for form in case.forms} | {"floor: matrix products alone": case.floor}


def extra_memory(case: Case, form: str, small: Case, device: torch.device) -> float:
    """MB that one step needs at its height beyond what stood before it. Call it in a fresh process.

    small: the same forms on small inputs, run first: what libraries load and set up belongs to nobody.
    """
    for each in small.forms:
        small.step(each)
    warm = torch.randn(512, DIM, device=device)
    (warm @ warm.T) @ warm
    torch.optim.SGD([warm], lr=0.1)  # imports torch's compiler (150 MB), and so would the first custom operation
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        case.step(form)
        return (torch.cuda.max_memory_allocated(device) - allocated) / 2**20
    before = high_water(reset=True)
    case.step(form)
    return (high_water() - before) / 2**20


def high_water(reset: bool = False) -> float:
    """Largest resident size of this process in bytes; with `reset`, from now on (where the kernel offers that)."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if status.exists():
        if reset:
            clear.write_text("5")
        lines = status.read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def in_a_process(options: argparse.Namespace, section: str, index: int, form: str) -> float:
    """`extra_memory` of one form, measured by this script in a child process; NaN if the child did not survive it."""
    command = [sys.executable, __file__, "--only", section, "--memory-of", f"{index}:{form}"]
    command += ["--device", options.device, "--threads", str(options.threads), *(["--quick"] if options.quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.split() else float("nan")


def peers() -> Iterator[str]:
    for name in PEERS:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name} not installed"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    sections = tuple(cases(True, torch.device("cpu")))
    parser.add_argument("--only", choices=sections, nargs="+", default=sections, help="sections to run")
    parser.add_argument("--rounds", type=int, default=41, help="most rounds per case")
    parser.add_argument("--seconds", type=float, default=40, help="after this time a case begins no further round")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory out")
    parser.add_argument("--json", help="write the numbers to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # INDEX:FORM, what `in_a_process` asks for
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    random.seed(0)
    device = torch.device(options.device)
    chosen = {name: build for name, build in cases(options.quick, device).items() if name in options.only}

    if options.memory_of:
        index, form = options.memory_of.split(":", 1)
        small = cases(True, device)[options.only[0]][0]()
        print(extra_memory(chosen[options.only[0]][int(index)](), form, small, device))
        return {}

    print(f"## Contrastive losses, forward and backward\n\n{hardware(device)}; {', '.join(peers())}\n")
    results: dict[str, list[dict[str, Any]]] = {}
    for section, builders in chosen.items():
        for index, build in enumerate(builders):
            case = build()
            rows = measure(runs(case), rounds=options.rounds, seconds=options.seconds, device=device)
            forms = list(case.forms)
            results[case.title] = rows
            title = case.title
            del case, build
            if not options.no_memory:
                for row in rows:
                    if row["form"] in forms:
                        row["extra_mb"] = in_a_process(options, section, index, row["form"])
            print(table(title, rows), flush=True)
    report = {"hardware": hardware(device), "peers": list(peers()), "options": vars(options), "results": results}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
