import math

import pytest
import torch

from sslcore import ops
from sslcore.ops.gram import _gram_lse, _gram_lse_pull

F64 = torch.float64


def by_loops(z, scale, *, ids=None, keep="different"):
    found = []
    for i in range(len(z)):
        terms = [
            math.exp(scale * float(z[i] @ z[j]))
            for j in range(len(z))
            if j != i and (ids is None or (ids[i] == ids[j]) == (keep == "equal"))
        ]
        found.append(math.log(sum(terms)) if terms else -math.inf)
    return torch.tensor(found, dtype=F64)


def lse_and_gradients(z, scale, **options):
    lse = ops.gram_lse(z, scale, **options)
    weights = torch.linspace(-1, 2, len(lse), dtype=lse.dtype)
    loss = (torch.where(lse.isinf(), 0, lse) * weights).sum()
    return lse, *torch.autograd.grad(loss, [x for x in (z, scale) if getattr(x, "requires_grad", False)])


@pytest.mark.parametrize("chunk", [None, 2, 3])
@pytest.mark.parametrize("keep", ["different", "equal"])
def test_equals_the_definition(chunk, keep):
    z = torch.randn(7, 3, dtype=F64)
    ids = torch.tensor([0, 1, 0, 2, 2, 0, 5])
    for options in ({}, {"ids": ids, "keep": keep}):
        ours = ops.gram_lse(z, 1.3, chunk=chunk, **options)
        torch.testing.assert_close(ours, by_loops(z, 1.3, **options), rtol=1e-9, atol=1e-9)
    ours = ops.gram_lse(z, 1.3, cosine=True, chunk=chunk)
    torch.testing.assert_close(ours, by_loops(z / z.norm(dim=1, keepdim=True), 1.3), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("scale", [2.0, 90.0])  # symmetric tiles, and the running maximum
@pytest.mark.parametrize("keep_up_to", [0, 2048])  # tiles formed twice, and exponentials kept
def test_every_chunk_size_gives_the_dense_values_and_gradients(cosine, scale, keep_up_to, monkeypatch):
    monkeypatch.setattr(ops.gram, "_KEEP_UP_TO", keep_up_to)
    z = torch.randn(11, 3, dtype=F64, requires_grad=True)
    learned = torch.tensor(scale, dtype=F64, requires_grad=True)
    for options in ({}, {"ids": torch.randint(0, 4, (11,))}, {"ids": torch.randint(0, 4, (11,)), "keep": "equal"}):
        options = options | {"cosine": cosine}
        dense = lse_and_gradients(z, learned, form="dense", **options)
        for chunk in (None, 1, 2, 3, 5, 10, 11, 64):
            ours = lse_and_gradients(z, learned, chunk=chunk, **options)
            torch.testing.assert_close(ours, dense, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [300, 2100])  # beyond the small form: kept, and formed twice
def test_sizes_that_are_no_multiple_of_a_tile(rows):
    z = torch.randn(rows, 8, requires_grad=True)
    scale = torch.tensor(5.0, requires_grad=True)
    dense = lse_and_gradients(z, scale, cosine=True, form="dense")
    for ours, expected in zip(lse_and_gradients(z, scale, cosine=True), dense, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("scale", [2.0, 80.0])
def test_gradcheck(cosine, scale):
    z = torch.randn(6, 3, dtype=F64, requires_grad=True)
    scale = torch.tensor(scale, dtype=F64, requires_grad=True)
    ids = torch.tensor([0, 1, 2, 3, 3, 4])
    assert torch.autograd.gradcheck(lambda z, s: ops.gram_lse(z, s, ids=ids, cosine=cosine, chunk=4), (z, scale))


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_a_row_without_others_has_minus_infinity_and_no_gradient(chunk, scale):
    z = torch.randn(5, 3, requires_grad=True)
    lse = ops.gram_lse(z, scale, ids=torch.tensor([0, 1, 0, 2, 0]), keep="equal", cosine=True, chunk=chunk)
    assert lse.isneginf().tolist() == [False, True, False, True, False]
    (dz,) = torch.autograd.grad(lse.sum(), z)
    assert not dz[[1, 3]].any()
    assert dz.isfinite().all()


@pytest.mark.parametrize("chunk", [None, 2])
def test_one_row_and_none(chunk):
    assert ops.gram_lse(torch.randn(1, 3), 1.0, chunk=chunk).isneginf().all()
    assert ops.gram_lse(torch.randn(0, 3), 1.0, chunk=chunk).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("scale", [10.0, 200.0])
def test_half_precision_is_summed_in_float32(dtype, chunk, scale):
    z = torch.randn(9, 4).to(dtype).requires_grad_()
    lse, dz = lse_and_gradients(z, scale, cosine=True, chunk=chunk)
    wide_lse, wide_dz = lse_and_gradients(z.detach().float().requires_grad_(), scale, cosine=True, form="dense")
    assert lse.dtype == torch.float32
    assert dz.dtype == dtype
    torch.testing.assert_close(lse, wide_lse)
    torch.testing.assert_close(dz.float(), wide_dz, rtol=1e-2, atol=1e-2 * scale)


def test_opcheck():
    z = torch.randn(6, 3, dtype=F64, requires_grad=True)
    scale = torch.tensor(2.0, dtype=F64)
    ids = torch.tensor([0, 1, 0, 2, 2, 0])
    # What is kept below the strips of a chunk is never written, and two runs would differ there: one strip for all.
    for keep_exponentials, chunk in ((False, 4), (True, 6)):
        torch.library.opcheck(_gram_lse, (z, scale, ids, False, "dot", chunk, "float32", keep_exponentials))
    g, kept = torch.randn(6, dtype=F64), torch.empty(0, 0, dtype=F64)
    torch.library.opcheck(_gram_lse_pull, (g, g, kept, z.detach(), scale, None, False, "dot", 4, "float32"))
