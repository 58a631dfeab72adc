import pytest
import torch
from torch import nn

from sslcore.nn import Layer, build_head, mlp_head


def kinds(head):
    return [type(module) for module in head]


def test_a_head_is_its_list_of_layers():
    head = build_head(
        [Layer(8, 16, norm="batch", act="relu"), Layer(16, 4, norm="layer", act="gelu"), Layer(4, 2, bias=False)]
    )
    assert kinds(head) == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.LayerNorm, nn.GELU, nn.Linear]
    assert [m.bias is not None for m in head if isinstance(m, nn.Linear)] == [False, True, False]
    assert head(torch.randn(3, 8)).shape == (3, 2)


def test_the_usual_heads():
    assert kinds(mlp_head(8, [16, 4])) == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert kinds(mlp_head(8, [16, 4], norm=False)) == [nn.Linear, nn.ReLU, nn.Linear]
    assert kinds(mlp_head(8, [4])) == [nn.Linear]
    simsiam = mlp_head(8, [16, 16, 4], last_norm=True, last_affine=False)
    assert kinds(simsiam) == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear, nn.BatchNorm1d]
    assert simsiam[-1].weight is None
    assert simsiam[0].bias is None
    for head in (mlp_head(8, [16, 4]), mlp_head(8, [16, 4], norm=False), mlp_head(8, (4,)), mlp_head(8, [3, 5, 4])):
        assert head(torch.randn(3, 8)).shape == (3, 4)


def test_what_makes_no_head_is_refused():
    with pytest.raises(ValueError, match="at least one layer"):
        build_head([])
    with pytest.raises(ValueError, match="at least one width"):
        mlp_head(8, [])
    with pytest.raises(ValueError, match="4 outputs cannot feed one with 5 inputs"):
        build_head([Layer(3, 4), Layer(5, 6)])
