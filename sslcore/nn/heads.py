"""Heads written down as lists of layers, so that a method's file shows its projector and predictor at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import nn

_ACTS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class Layer:
    """A linear layer and what follows it.

    Attributes:
        in_dim, out_dim: lengths of the vectors before and after.
        norm: batch or layer norm after the linear layer, or None.
        act: activation after that, or None.
        affine: the norm has a learned scale and offset (SimSiam's last one has not).
        bias: of the linear layer; None: only where no batch norm takes it away again.
    """

    in_dim: int
    out_dim: int
    norm: Literal["batch", "layer"] | None = None
    act: Literal["relu", "gelu"] | None = None
    affine: bool = True
    bias: bool | None = None


def build_head(layers: Sequence[Layer]) -> nn.Sequential:
    """A head (n, first in_dim) -> (n, last out_dim).

    Raises:
        ValueError: there is no layer, one does not fit the next, or a norm or activation is not known.

    Example:
        >>> build_head([Layer(512, 2048, norm="batch", act="relu"), Layer(2048, 128)])
    """
    if not layers:
        raise ValueError("a head needs at least one layer")
    for before, after in pairwise(layers):
        if before.out_dim != after.in_dim:
            raise ValueError(f"a layer with {before.out_dim} outputs cannot feed one with {after.in_dim} inputs")
    return nn.Sequential(*(module for layer in layers for module in _modules(layer)))


def mlp_head(
    in_dim: int,
    widths: Sequence[int],
    *,
    norm: bool = True,
    last_norm: bool = False,
    last_affine: bool = True,
) -> nn.Sequential:
    """The usual head: linear layers with batch norm and relu between them.

    Args:
        in_dim: length of the input, the backbone's `dim`.
        widths: outputs of each layer; the last one has no activation, and one width alone is a linear head.
        norm: batch norm before every relu. MoCo v2 has none.
        last_norm: batch norm after the last layer too, as in SimSiam's and MoCo v3's projectors.
        last_affine: that last batch norm has a learned scale and offset.

    Raises:
        ValueError: no width is given.

    Example:
        >>> mlp_head(512, [512, 128])                              # SimCLR, BYOL
        >>> mlp_head(2048, [2048, 128], norm=False)                # MoCo v2
        >>> mlp_head(512, [2048, 2048], last_norm=True)            # SimSiam
    """
    if not widths:
        raise ValueError("a head needs at least one width")
    hidden = [Layer(a, b, norm="batch" if norm else None, act="relu") for a, b in zip([in_dim, *widths], widths[:-1])]
    before = widths[-2] if len(widths) > 1 else in_dim
    last = Layer(before, widths[-1], norm="batch" if last_norm else None, affine=last_affine)
    return build_head([*hidden, last])


def _modules(layer: Layer) -> list[nn.Module]:
    bias = layer.norm != "batch" if layer.bias is None else layer.bias
    modules: list[nn.Module] = [nn.Linear(layer.in_dim, layer.out_dim, bias=bias)]
    if layer.norm == "batch":
        modules.append(nn.BatchNorm1d(layer.out_dim, affine=layer.affine))
    elif layer.norm == "layer":
        modules.append(nn.LayerNorm(layer.out_dim, elementwise_affine=layer.affine))
    elif layer.norm is not None:
        raise ValueError(f'norm must be "batch", "layer" or None, not {layer.norm!r}')
    if layer.act is not None:
        if layer.act not in _ACTS:
            raise ValueError(f"act must be one of {', '.join(_ACTS)} or None, not {layer.act!r}")
        modules.append(_ACTS[layer.act]())
    return modules
