import pytest
import torch
from torch import nn

from sslcore.nn import PixelEncoder, build_backbone, pixel_head


def test_it_is_curls_encoder():
    encoder = PixelEncoder()
    convs = [m for m in encoder.convs if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in convs] == [
        (9, 32, (3, 3), (2, 2)),
        *[(32, 32, (3, 3), (1, 1))] * 3,
    ]
    assert encoder.head[0].weight.shape == (50, 32 * 35 * 35)
    assert [type(m) for m in encoder.head] == [nn.Linear, nn.LayerNorm]
    assert [type(m) for m in PixelEncoder(size=32, tanh=True).head] == [nn.Linear, nn.LayerNorm, nn.Tanh]


def test_it_starts_orthogonal():
    encoder = PixelEncoder(size=32)
    linear, conv = encoder.head[0], encoder.convs[2]
    torch.testing.assert_close(linear.weight @ linear.weight.T, torch.eye(50), atol=1e-4, rtol=0)
    centre = conv.weight[:, :, 1, 1]
    torch.testing.assert_close(centre @ centre.T, 2 * torch.eye(32), atol=1e-4, rtol=0)  # relu's gain is sqrt(2)
    assert conv.weight.count_nonzero() == centre.count_nonzero()
    assert not linear.bias.any()
    assert not conv.bias.any()


def test_bytes_are_divided_by_255_and_floats_are_taken_as_they_are():
    encoder = PixelEncoder(in_channels=3, size=32)
    frames = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(encoder(frames), encoder(frames / 255.0))
    assert not torch.allclose(encoder(frames), encoder(2 * frames.float()))


def test_detaching_spares_the_convolutions_only():
    encoder = PixelEncoder(in_channels=3, size=20)
    encoder(torch.rand(4, 3, 20, 20), detach=True).square().sum().backward()
    assert all(p.grad is None for p in encoder.convs.parameters())
    assert all(p.grad is not None for p in encoder.head.parameters())
    encoder(torch.rand(4, 3, 20, 20)).sum().backward()
    assert all(p.grad is not None for p in encoder.convs.parameters())


def test_a_head_of_ones_own_can_stand_on_shared_convolutions():
    critic = PixelEncoder(in_channels=3, size=20, feature_dim=6)
    frames = torch.rand(4, 3, 20, 20)
    shared = critic.conv_features(frames)
    actor_head = pixel_head(shared.shape[1], 6)
    actor_head.load_state_dict(critic.head.state_dict())
    torch.testing.assert_close(actor_head(shared), critic(frames))
    torch.testing.assert_close(critic.feature_maps(frames)[-1].flatten(1), shared)


@pytest.mark.parametrize(("layers", "side"), [(2, 39), (4, 35), (6, 31)])
def test_the_linear_layer_fits_any_number_of_convolutions(layers, side):
    assert PixelEncoder(layers=layers, width=4).head[0].in_features == 4 * side * side


@pytest.mark.parametrize("size", [15, 32, 33, 64])
def test_any_size_that_is_large_enough_works(size):
    assert build_backbone("pixel_encoder", width=4, size=size)(torch.randn(2, 3, size, size)).shape == (2, 50)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="14 pixels are too small for 4 convolutions"):
        PixelEncoder(size=14)
    with pytest.raises(ValueError, match="made for frames of 84 x 84, not 100 x 100: crop them"):
        PixelEncoder()(torch.zeros(1, 9, 100, 100))
    with pytest.raises(ValueError, match="at least one convolution"):
        PixelEncoder(layers=0)
