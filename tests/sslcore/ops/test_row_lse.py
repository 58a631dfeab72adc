import inspect
import math

import pytest
import torch

from sslcore import ops
from sslcore.ops.row import _row_lse, _row_lse_keys_gradient

F64 = torch.float64


def by_loops(q, k, scale, *, query_ids=None, key_ids=None, key_bias=None, keep="different", own_key=None):
    """The definition, one pair at a time; k is (k, d) or (n, k, d)."""
    found = []
    for i in range(len(q)):
        keys = k if k.dim() == 2 else k[i]
        terms = []
        for j in range(len(keys)):
            ids = None if key_ids is None else (key_ids[j] if key_ids.dim() == 1 else key_ids[i, j])
            if ids is not None and (query_ids[i] == ids) == (keep == "different"):
                continue
            if own_key is not None and j == own_key + i:
                continue
            bias = 0 if key_bias is None else (key_bias[j] if key_bias.dim() == 1 else key_bias[i, j])
            terms.append(math.exp(scale * float((q[i] @ keys[j]).detach()) + bias))
        found.append(math.log(sum(terms)) if terms else -math.inf)
    return torch.tensor(found, dtype=F64)


def inputs(n=5, k=7, d=3, own=False):
    q = torch.randn(n, d, dtype=F64, requires_grad=True)
    keys = torch.randn(*((n, k, d) if own else (k, d)), dtype=F64, requires_grad=True)
    return q, keys


def lse_and_gradients(q, k, scale, *more, **options):
    """Log-sum-exps, and the gradients of a weighted sum of the finite ones."""
    lse = ops.row_lse(q, k, scale, **options)
    weights = torch.linspace(-1, 2, len(lse), dtype=lse.dtype)
    loss = (torch.where(lse.isinf(), 0, lse) * weights).sum()
    return lse, *torch.autograd.grad(loss, [x for x in (q, k, scale, *more) if getattr(x, "requires_grad", False)])


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("chunk", [None, 2, 3])
@pytest.mark.parametrize("keep", ["different", "equal"])
def test_equals_the_definition(own, chunk, keep):
    q, k = inputs(own=own)
    ids = {"query_ids": torch.tensor([0, 1, 2, 0, 3]), "key_ids": torch.tensor([0, 0, 1, 2, 2, 4, 0])}
    bias = torch.randn(7, dtype=F64)
    for options in (
        {},
        ids | {"keep": keep},
        {"key_bias": bias},
        {"own_key": 1},
        ids | {"key_bias": bias, "own_key": 0},
    ):
        ours = ops.row_lse(q, k, 1.7, chunk=chunk, **options)
        torch.testing.assert_close(ours, by_loops(q, k, 1.7, **options), rtol=1e-9, atol=1e-9)
    unit_q, unit_k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    ours = ops.row_lse(q, k, 1.7, cosine=True, chunk=chunk, **ids)
    torch.testing.assert_close(ours, by_loops(unit_q, unit_k, 1.7, **ids), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("scale", [3.0, 90.0])  # with and without a running maximum
def test_every_chunk_size_gives_the_dense_values_and_gradients(own, cosine, scale):
    q, k = inputs(6, 10, own=own)
    learned = torch.tensor(scale, dtype=F64, requires_grad=True)
    bias = torch.randn(10, dtype=F64, requires_grad=True)
    ids = {"query_ids": torch.randint(0, 3, (6,)), "key_ids": torch.randint(0, 4, (10,))}
    for options in ({}, {"key_bias": bias}, ids | {"own_key": 2}):
        more = [x for x in options.values() if x is bias]
        options = options | {"cosine": cosine}
        dense = lse_and_gradients(q, k, learned, *more, form="dense", **options)
        for chunk in (None, 1, 2, 3, 4, 6, 7, 10, 64):
            ours = lse_and_gradients(q, k, learned, *more, chunk=chunk, **options)
            torch.testing.assert_close(ours, dense, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("cosine", [False, True])
def test_gradcheck(own, cosine):
    q, k = inputs(4, 5, own=own)
    scale = torch.tensor(2.0, dtype=F64, requires_grad=True)
    bias = torch.randn(*((4, 5) if own else (5,)), dtype=F64, requires_grad=True)
    ids = {"query_ids": torch.tensor([0, 1, 2, 3]), "key_ids": torch.tensor([0, 0, 1, 7, 8])}

    def lse(q, k, scale, bias):
        return ops.row_lse(q, k, scale, key_bias=bias, cosine=cosine, chunk=2, **ids)

    assert torch.autograd.gradcheck(lse, (q, k, scale, bias))


def test_many_keys_take_the_chunked_form_without_being_asked():
    q, k = torch.randn(70, 8, requires_grad=True), torch.randn(9001, 8, requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    for ours, dense in zip(lse_and_gradients(q, k, scale), lse_and_gradients(q, k, scale, form="dense"), strict=True):
        torch.testing.assert_close(ours, dense, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("cosine", [False, True])
def test_a_query_without_keys_has_minus_infinity_and_no_gradient(chunk, own, scale, cosine):
    q, k = inputs(own=own)
    ids = {"query_ids": torch.tensor([9, 1, 9, 2, 3]), "key_ids": torch.full((7,), 9)}
    lse = ops.row_lse(q, k, scale, cosine=cosine, chunk=chunk, **ids)
    assert lse.isneginf().tolist() == [True, False, True, False, False]
    dq, dk = torch.autograd.grad(lse.sum(), [q, k])
    assert not dq[[0, 2]].any()
    assert dq[[1, 3, 4]].any(dim=1).all()
    assert dk.isfinite().all()


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_bias_of_minus_infinity_leaves_a_key_out(chunk):
    q, k = inputs()
    bias = torch.zeros(7, dtype=F64)
    bias[3] = -math.inf
    ours = ops.row_lse(q, k, 2.0, key_bias=bias, chunk=chunk)
    torch.testing.assert_close(ours, ops.row_lse(q, torch.cat([k[:3], k[4:]]), 2.0))
    nothing = ops.row_lse(q, k, 2.0, key_bias=torch.full((7,), -math.inf, dtype=F64), chunk=chunk)
    assert nothing.isneginf().all()


@pytest.mark.parametrize("chunk", [None, 4])
def test_no_keys_and_no_queries(chunk):
    q, k = inputs()
    assert ops.row_lse(q, k[:0], 1.0, chunk=chunk).isneginf().all()
    assert ops.row_lse(q[:0], k, 1.0, chunk=chunk).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("chunk", [None, 4])
def test_half_precision_is_summed_in_float32(dtype, own, chunk):
    q, k = (x.detach().to(dtype).requires_grad_() for x in inputs(own=own))
    ours = lse_and_gradients(q, k, 200.0, cosine=True, chunk=chunk)
    wide = lse_and_gradients(
        q.detach().float().requires_grad_(), k.detach().float().requires_grad_(), 200.0, cosine=True, form="dense"
    )
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == ours[2].dtype == dtype
    torch.testing.assert_close(ours[0], wide[0])
    for gradient, expected in zip(ours[1:], wide[1:], strict=True):
        torch.testing.assert_close(gradient.float(), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("chunk", [None, 3])
def test_autocast_does_not_reach_the_logits(chunk):
    q, k = (x.detach().float().requires_grad_() for x in inputs(32, 64, 16))
    plain = ops.row_lse(q, k, 10.0, cosine=True, chunk=chunk)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = ops.row_lse(q, k, 10.0, cosine=True, chunk=chunk)
    torch.testing.assert_close(under_autocast, plain)
    torch.testing.assert_close(
        torch.autograd.grad(under_autocast.sum(), [q, k]), torch.autograd.grad(plain.sum(), [q, k])
    )


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_zero_row_has_similarity_zero_and_no_gradient(chunk):
    q, k = inputs()
    with torch.no_grad():
        q[0] = 0
        k[3] = 0
    lse, dq, dk = lse_and_gradients(q, k, 50.0, cosine=True, chunk=chunk)
    torch.testing.assert_close(lse[0], torch.tensor(math.log(7), dtype=F64))
    assert not dq[0].any()
    assert not dk[3].any()
    assert dq.isfinite().all()


def test_scores_far_apart_stay_finite_and_exact():
    """Dot products between -2000 and 2000 in float32: the running maximum moves, and what fades away is nothing."""
    q = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    k = torch.tensor([[-2000.0], [1.0], [1999.0], [2000.0], [-5.0]])
    lse, dq = lse_and_gradients(q, k, 1.0, chunk=1)
    torch.testing.assert_close(lse, torch.tensor([2000 + math.log1p(math.exp(-1)), 2000.0]))
    assert dq.isfinite().all()


def test_matmul_precision_is_put_back():
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    q, k = torch.randn(600, 8), torch.randn(600, 8)
    with ops.matmul_precision("bf16"):
        rounded = ops.row_lse(q, k, 1.0, cosine=True)
        assert settings.fp32_precision == before
    assert settings.fp32_precision == before
    torch.testing.assert_close(rounded, ops.row_lse(q, k, 1.0, cosine=True), rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="bf16"):
        next(inspect.unwrap(ops.matmul_precision)("int8"))


def test_a_second_derivative_is_refused_not_wrong():
    q, k = inputs()
    (dq,) = torch.autograd.grad(ops.row_lse(q, k, 1.0, chunk=3).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        dq.sum().backward()


def test_queries_and_keys_may_differ_in_dtype():
    q, k = (x.detach() for x in inputs())
    for chunk in (None, 2):
        for dtype in (torch.float32, torch.bfloat16):
            ours = ops.row_lse(q.to(dtype), k, 1.0, cosine=True, chunk=chunk)
            assert ours.dtype == torch.float64
            torch.testing.assert_close(
                ours, ops.row_lse(q.to(dtype).double(), k, 1.0, cosine=True), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("with_mean", [False, True])
def test_opcheck(own, with_mean):
    q, k = (x.detach().requires_grad_(with_mean) for x in inputs(own=own))
    scale = torch.tensor(2.0, dtype=F64)
    ids = torch.tensor([0, 1, 2, 0, 3]), torch.tensor([0, 0, 1, 2, 2, 4, 0])
    bias = torch.randn(7, dtype=F64, requires_grad=with_mean)
    torch.library.opcheck(_row_lse, (q, k, scale, *ids, bias, False, None, "cosine", 2, "float32", with_mean))
    g = torch.randn(5, dtype=F64)
    tensors = [x.detach() for x in (g, g, q, k, scale)]
    torch.library.opcheck(_row_lse_keys_gradient, (*tensors, *ids, bias.detach(), False, None, "dot", 0, "float32"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.randn(7, 4)}, "of the same d"),
        ({"k": torch.randn(4, 7, 3)}, "5 queries need as many sets of keys"),
        ({"query_ids": torch.zeros(5, dtype=torch.long)}, "both queries and keys"),
        ({"key_bias": torch.randn(6)}, r"key bias must be one per key, \(7,\)"),
        ({"chunk": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {"q": torch.randn(5, 3), "k": torch.randn(7, 3), "scale": 1.0} | change
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(ops.row_lse)(**arguments)  # the tests' own shape checker would be first
