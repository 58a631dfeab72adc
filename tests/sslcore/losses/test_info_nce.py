import inspect
import math

import pytest
import torch
from torch import nn

from sslcore.losses import info_nce

F64 = torch.float64


class Form(nn.Module):
    """q^T W k, as `nn.Bilinear` offers it."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, dim, dtype=F64))

    def project(self, query):
        return query @ self.weight

    def forward(self, query, key):
        return self.project(query) @ key.T


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def by_loops(query, positive, negatives, temperature, similarity, query_ids=None, negative_ids=None):
    """Equation 4 of CPC, one pair at a time; negatives None: the positives of the others."""
    total = 0.0
    for i in range(len(query)):
        own = math.exp(similarity(query[i], positive[i]) / temperature)
        others = 0.0
        keys = positive if negatives is None else negatives if negatives.dim() == 2 else negatives[i]
        ids = query_ids if negatives is None else negative_ids
        for j in range(len(keys)):
            if negatives is None and j == i:
                continue
            if ids is not None and query_ids[i] == (ids[j] if ids.dim() == 1 else ids[i, j]):
                continue
            others += math.exp(similarity(query[i], keys[j]) / temperature)
        total -= math.log(own / (own + others))
    return torch.tensor(total / len(query), dtype=F64)


def tensors(n=5, k=7, d=4):
    shapes = {"query": (n, d), "positive": (n, d), "shared": (k, d), "own": (n, k, d)}
    return {name: torch.randn(shape, dtype=F64, requires_grad=True) for name, shape in shapes.items()}


@pytest.mark.parametrize("negatives", [None, "shared", "own"])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "bilinear"])
def test_equals_the_equation(negatives, with_ids, similarity):
    t, form = tensors(), Form(4)
    definition = {
        "cosine": cosine,
        "dot": lambda a, b: float(a @ b),
        "bilinear": lambda a, b: float(a @ form.weight @ b),
    }[similarity]
    keys = t[negatives] if negatives else None
    ids = {}
    if with_ids:
        ids["query_ids"] = torch.tensor([0, 1, 0, 2, 3])
        if negatives:
            ids["negative_ids"] = torch.randint(0, 4, keys.shape[:-1])
    with torch.no_grad():
        ours = info_nce(
            t["query"],
            t["positive"],
            keys,
            temperature=0.5,
            similarity=form if similarity == "bilinear" else similarity,
            **ids,
        )
        expected = by_loops(t["query"], t["positive"], keys, 0.5, definition, **ids)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("with_ids", [False, True])
def test_a_similarity_without_projection_gives_the_same(with_ids):
    t, form = tensors(), Form(4)
    keys = {"query_ids": torch.tensor([0, 1, 0, 2, 3])} if with_ids else {}
    both = [
        info_nce(t["query"], t["positive"], temperature=1, similarity=s, **keys)
        for s in (form, lambda q, k: form(q, k))
    ]
    torch.testing.assert_close(*both)
    keys = keys | {"negative_ids": torch.randint(0, 4, (7,))} if with_ids else {}
    both = [
        info_nce(t["query"], t["positive"], t["shared"], temperature=1, similarity=s, **keys)
        for s in (form, lambda q, k: form(q, k))
    ]
    torch.testing.assert_close(*both)
    with pytest.raises(ValueError, match="a method `project`"):
        info_nce(t["query"], t["positive"], t["own"], temperature=1, similarity=lambda q, k: q @ k.T)


@pytest.mark.parametrize("negatives", [None, "shared", "own"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_gradcheck(negatives, similarity):
    t = tensors(4, 5, 3)
    temperature = torch.tensor(0.4, dtype=F64, requires_grad=True)
    more = (t[negatives],) if negatives else ()

    def loss(query, positive, temperature, *negatives):
        return info_nce(query, positive, *negatives, temperature=temperature, similarity=similarity)

    assert torch.autograd.gradcheck(loss, (t["query"], t["positive"], temperature, *more))


def test_gradcheck_of_the_bilinear_weight():
    t, form = tensors(4, 5, 3), Form(3)

    def loss(weight):
        form.project = lambda query: query @ weight
        return info_nce(t["query"].detach(), t["positive"].detach(), temperature=1.0, similarity=form)

    assert torch.autograd.gradcheck(loss, (form.weight.detach().requires_grad_(),))


@pytest.mark.parametrize("n", [3, 600])  # the small and the chunked form
def test_batch_form_equals_cross_entropy(n):
    q, p = (torch.randn(n, 8, dtype=F64, requires_grad=True) for _ in range(2))
    ours = info_nce(q, p, temperature=0.1)
    scores = nn.functional.normalize(q) @ nn.functional.normalize(p).T / 0.1
    plain = nn.functional.cross_entropy(scores, torch.arange(n))
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, [q, p]), torch.autograd.grad(plain, [q, p]))


def test_no_negatives_leave_no_loss():
    t = tensors()
    for keys, ids in (
        (t["shared"][:0], {}),
        (t["shared"], {"query_ids": torch.ones(5, dtype=torch.long), "negative_ids": torch.ones(7, dtype=torch.long)}),
        (None, {"query_ids": torch.ones(5, dtype=torch.long)}),
    ):
        loss = info_nce(t["query"], t["positive"], keys, temperature=0.1, **ids)
        assert loss == 0
        (gradient,) = torch.autograd.grad(loss, t["query"])
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("keys", [None, 9, 6000])
def test_small_temperatures_stay_finite(dtype, keys):
    q, p = (torch.randn(64, 16).to(dtype).requires_grad_() for _ in range(2))
    negatives = None if keys is None else torch.randn(keys, 16).to(dtype)
    loss = info_nce(q, p, negatives, temperature=0.005)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert q.grad.isfinite().all()
    assert p.grad.isfinite().all()


def test_a_queue_is_neither_copied_nor_kept():
    """What autograd holds on to does not grow with the number of keys."""
    saved = 0

    def count(tensor):
        nonlocal saved
        if tensor.untyped_storage().data_ptr() != queue.untyped_storage().data_ptr():
            saved += tensor.numel()
        return tensor

    q, p, queue = torch.randn(32, 8, requires_grad=True), torch.randn(32, 8), torch.randn(50_000, 8)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        info_nce(q, p, queue, temperature=0.1).backward()
    assert saved < 50_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive": torch.randn(4, 4)}, r"query and positive must have the same shape"),
        ({"negatives": torch.randn(7, 3)}, "of the same d"),
        ({"temperature": 0.0}, "must be positive, not 0"),
        ({"temperature": math.nan}, "must be positive, not nan"),
        ({"similarity": "l2"}, '"cosine", "dot" or a module'),
        ({"negative_ids": torch.zeros(5, dtype=torch.long)}, "give their ids as query_ids"),
        ({"query_ids": torch.zeros(4, dtype=torch.long)}, "one per query"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {"query": torch.randn(5, 4), "positive": torch.randn(5, 4), "temperature": 0.1} | change
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(info_nce)(**arguments)


def test_temperature_has_no_default():
    with pytest.raises(TypeError, match="temperature"):
        inspect.unwrap(info_nce)(torch.randn(5, 4), torch.randn(5, 4))
