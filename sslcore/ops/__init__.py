"""The two primitives that carry every softmax-type loss, and their literal reference in `ops.dense`."""

from sslcore.ops import dense
from sslcore.ops.gram import gram_lse
from sslcore.ops.numerics import matmul_precision, unit
from sslcore.ops.row import row_lse

__all__ = ["dense", "gram_lse", "matmul_precision", "row_lse", "unit"]
