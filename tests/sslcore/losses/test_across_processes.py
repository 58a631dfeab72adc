"""One process with a batch of 8 and two processes with 4 each have the same loss and the same gradients."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from sslcore import losses
from sslcore.nn import Bilinear

N, D, K = 8, 5, 6
F64 = torch.float64


def batch():
    """Everything row-wise is sliced between the processes; a queue and prototypes are the same in all."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, dtype=F64, generator=generator)

    rows = {
        "x": draw(N, 4),
        "y": draw(N, 4),
        "z": draw(N, D),
        "own": draw(N, 3, D),
        "labels": torch.tensor([0, 1, 0, 2, 1, 1, 5, 3]),
        "alone": torch.tensor([0, 1, 2, 3, 0, 4, 5, 6]),  # the only pair of positives lies in two processes
        "some": torch.tensor([0, -1, 3, 2, -1, 1, -1, -1]),  # one process has three classes, the other one
        "none": torch.arange(N),
        "assignments": torch.tensor([0, 1, 5, 2, 4, 1, 5, 3]),
    }
    shared = {
        "weight": draw(4, D),
        "temperature": torch.tensor(0.3, dtype=F64),
        "keys": draw(K, D),
        "matrix": draw(D, D),
    }
    return rows, shared


def cases():
    """name -> loss of (two views (n, d), their rows, what is shared, temperature)."""

    def swapped(a, b, r, s, t):
        scores = [torch.tanh(v @ s["keys"].T) for v in (a, b)]
        codes = [losses.sinkhorn(x, epsilon=0.1) for x in scores]
        return losses.swapped_prediction(scores, codes, temperature=t)

    def bilinear(s):
        similarity = Bilinear(D)
        similarity.weight = s["matrix"]
        return similarity

    spread = torch.linspace(0.5, 1.5, K, dtype=F64)
    return {
        "nt_xent": lambda a, b, r, s, t: losses.nt_xent(a, b, temperature=t),
        "nt_xent, running maximum": lambda a, b, r, s, t: losses.nt_xent(a, b, temperature=t / 100),
        "info_nce of the batch": lambda a, b, r, s, t: losses.info_nce(a, b, temperature=t),
        "info_nce of the batch, ids": lambda a, b, r, s, t: losses.info_nce(a, b, temperature=t, query_ids=r["labels"]),
        "info_nce of the batch, fixed keys": lambda a, b, r, s, t: losses.info_nce(a, b.detach(), temperature=t),
        "info_nce of the batch, dot": lambda a, b, r, s, t: losses.info_nce(a, b, temperature=t, similarity="dot"),
        "info_nce of the batch, bilinear": lambda a, b, r, s, t: losses.info_nce(
            a, b, temperature=t, similarity=bilinear(s)
        ),
        "info_nce, queue": lambda a, b, r, s, t: losses.info_nce(a, b, s["keys"], temperature=t),
        "info_nce, own": lambda a, b, r, s, t: losses.info_nce(a, b, r["own"], temperature=t),
        "sup_con out": lambda a, b, r, s, t: losses.sup_con(a, r["labels"], temperature=t),
        "sup_con in": lambda a, b, r, s, t: losses.sup_con(a, r["labels"], temperature=t, form="in"),
        "sup_con out, one pair": lambda a, b, r, s, t: losses.sup_con(a, r["alone"], temperature=t),
        "sup_con in, one pair": lambda a, b, r, s, t: losses.sup_con(a, r["alone"], temperature=t, form="in"),
        "sup_con out, no pair": lambda a, b, r, s, t: losses.sup_con(a, r["none"], temperature=t),
        "sup_con in, no pair": lambda a, b, r, s, t: losses.sup_con(a, r["none"], temperature=t, form="in"),
        "proto_nce": lambda a, b, r, s, t: losses.proto_nce(
            a, s["keys"], r["assignments"], temperature=t, concentration=spread
        ),
        "max_margin": lambda a, b, r, s, t: losses.max_margin(a, b, r["labels"] > 1, margin=3.0),
        "triplet": lambda a, b, r, s, t: losses.triplet(a, b, r["z"], margin=1.0),
        "n_pair": lambda a, b, r, s, t: losses.n_pair(a, b, temperature=t, labels=r["labels"], l2=0.1),
        "prototype_nce": lambda a, b, r, s, t: losses.prototype_nce(
            a, r["some"], s["keys"], temperature=t, valid=torch.tensor([True, True, True, True, False, True])
        ),
        "hinge_clustering": lambda a, b, r, s, t: losses.hinge_clustering(a, r["labels"], s["keys"], margin=4.0),
        "hinge_clustering, rows without a class": lambda a, b, r, s, t: losses.hinge_clustering(
            a, r["some"], s["keys"], margin=4.0
        ),
        "negative_cosine": lambda a, b, r, s, t: losses.negative_cosine(a, b),
        "swapped_prediction": swapped,
    }


def loss_and_gradients(case, rows, shared):
    """The loss, and its gradients for everything that the processes share."""
    parameters = {name: nn.Parameter(value.clone()) for name, value in shared.items()}
    a, b = (torch.tanh(rows[name] @ parameters["weight"]) for name in ("x", "y"))
    loss = cases()[case](a, b, rows, parameters, parameters["temperature"])
    loss.backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters.values()]
    return [loss.detach(), *gradients]


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    rows, shared = batch()
    mine = {name: value.chunk(2)[rank] for name, value in rows.items()}
    found = {}
    for case in cases():
        found[case] = loss_and_gradients(case, mine, shared)
        for value in found[case]:
            dist.all_reduce(value)
            value /= 2  # what DDP does
    local = [losses.nt_xent(mine["x"], mine["y"], temperature=0.3, gather=False)]
    matrix = {"temperature": 0.3, "similarity": lambda q, k: q @ k.T}  # no `project`
    local.append(losses.info_nce(mine["x"], mine["y"], gather=False, **matrix))
    local.append(losses.info_nce(mine["x"], mine["y"], shared["weight"].T, **matrix))
    refusal = ""
    try:
        losses.info_nce(mine["x"], mine["y"], **matrix)
    except ValueError as error:
        refusal = str(error)
    if rank == 0:
        torch.save((found, local, refusal), f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (str(folder),), nprocs=2)
    return torch.load(folder / "found.pt")


@pytest.mark.parametrize("case", cases())
def test_two_processes_equal_one(case, found):
    expected = loss_and_gradients(case, *batch())
    for ours, whole in zip(found[0][case], expected, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-9)
    if "no pair" not in case:
        assert expected[1].any()


def test_without_gather_a_process_keeps_to_its_own_batch(found):
    rows, shared = batch()
    x, y, keys = rows["x"][:4], rows["y"][:4], shared["weight"].T
    expected = [
        losses.nt_xent(x, y, temperature=0.3),
        losses.info_nce(x, y, temperature=0.3, similarity="dot"),
        losses.info_nce(x, y, keys, temperature=0.3, similarity="dot"),
    ]
    torch.testing.assert_close(found[1], expected)


def test_a_function_that_only_gives_matrices_cannot_meet_the_positives_of_other_processes(found):
    assert "needs a method `project`" in found[2]
    assert "gather=False" in found[2]
