"""Number formats of the core: what is summed in which precision, unit rows, and the matrix-multiply precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Scalar = float | int | Float[Tensor, ""]
MatmulPrecision = Literal["float32", "bf16"]

# A row shorter than this has no direction: it is treated as zero and gets no gradient, instead of one of length 1e12.
_SHORTEST = 1e-12

_precision: ContextVar[MatmulPrecision] = ContextVar("matmul_precision", default="float32")


def widened(x: Tensor) -> Tensor:
    """x in the format in which similarities are formed: float32 for bf16 and fp16, otherwise its own.

    A similarity of 14 (cosine 1 at temperature 0.07) is off by up to 0.03 in bf16, and exp(14) overflows fp16.
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def inverse_norms(x: Tensor) -> Tensor:
    """1 / |x| along the last dimension, which is kept with size 1; 0 for rows without direction."""
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norms.reciprocal().masked_fill_(norms <= _SHORTEST, 0)


class _Unit(torch.autograd.Function):
    """x / |x| with the two-line gradient (g - u <u, g>) / |x|; a third of the operations autograd would record."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        inverse = inverse_norms(x)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        return along_sphere(gradient, *ctx.saved_tensors)


def along_sphere(gradient: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Gradient for x from the gradient for its unit vector: the part along the sphere, divided by |x|."""
    radial = (gradient * unit).sum(-1, keepdim=True)
    return torch.addcmul(gradient, unit, radial, value=-1).mul_(inverse)


def unit(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Rows of length one, in float32 for bf16 and fp16 input; a zero row stays zero and gets a zero gradient."""
    return _Unit.apply(widened(x))


def as_scale(scale: Scalar) -> Tensor:
    """The scale as a tensor without dimensions; a number becomes one on the CPU, which any device can read for free."""
    if isinstance(scale, Tensor):
        return scale
    return torch.tensor(scale, dtype=torch.float64)


@contextmanager
def matmul_precision(precision: MatmulPrecision) -> Iterator[None]:
    """Precision of the float32 matrix products inside `row_lse` and `gram_lse` (and the losses on them).

    Args:
        precision: "float32" (the default) or "bf16": factors are rounded to bf16, sums stay float32. On CPUs with
            AMX that is about three times faster; cosines are then off by up to 2e-3 and gradients by 3e-4, relatively.
            Without AMX, and on other devices, it changes nothing.

    torch keeps this setting for the whole process. It is set when an operation starts and put back when it ends, so
    that nothing else is computed in bf16, unless another thread multiplies matrices at that very time.
    """
    if precision not in ("float32", "bf16"):
        raise ValueError(f'matmul precision is "float32" or "bf16", not {precision!r}')
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def chosen_matmul_precision() -> MatmulPrecision:
    return _precision.get()


@contextmanager
def matmuls_in(precision: str) -> Iterator[None]:
    """Apply the chosen precision for the length of one operation."""
    if precision == "float32":
        yield
        return
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # a module made at import
    before = settings.fp32_precision
    settings.fp32_precision = precision
    try:
        yield
    finally:
        settings.fp32_precision = before
