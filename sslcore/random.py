"""Random numbers that are a pure function of (seed, step, sample id, stream, draw): nothing is kept between calls.

A generator's next number depends on how many were drawn before it, so batch order, worker count, process count or a
resume would change a run. Here a number is the hash of its coordinates instead: the counter-based idea of Salmon et
al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011, with the finaliser of SplitMix64 (Steele, Lea and Flood,
"Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) as the hash. Only 64-bit integer operations are used
until the last step, which is exact, so CPU, CUDA and plain Python give the same bits.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: SplitMix64's step between counters
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 24  # what a float32 in [0, 1) holds exactly


def uniform(seed: int, step: int, ids: Int[Tensor, " n"], *, stream: int, draws: int) -> Float[Tensor, "n {draws}"]:
    """Uniform numbers in [0, 1), one row a sample.

    Args:
        seed: the run's seed; any Python integer (taken modulo 2^64), as are `step` and `stream`.
        step: training step, or whatever counts the draws of one sample.
        ids: (n,) integers naming the samples, on the device the numbers are wanted on.
        stream: tells apart uses that must be independent (views, crop against colour, ...).
        draws: numbers a sample. Draw j does not depend on how many are asked for.

    Returns:
        (n, draws) float32 multiples of 2^-24 on the device of `ids`; row i depends on ids[i] and not on the other rows.
    """
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"ids must be integers naming the samples, not {ids.dtype}")
    start = _mix(_mix(ids.to(torch.int64) * _signed(_GOLDEN)) ^ _signed(_key(seed, step, stream)))
    # The key enters by exclusive or before a mix, the draw by SplitMix64's own counter after it.
    counters = torch.arange(1, draws + 1, device=ids.device) * _signed(_GOLDEN)
    bits = _mix(start[:, None] + counters)
    return _shift_right(bits, 64 - _BITS).to(torch.float32) * 2.0**-_BITS


def uniform_row(seed: int, step: int, sample_id: int, *, stream: int, draws: int) -> list[float]:
    """The row that `uniform` gives for one sample, bit for bit, in plain Python: cheaper than tensors for one image."""
    start = _mix_int(_mix_int(sample_id * _GOLDEN) ^ _key(seed, step, stream))
    return [(_mix_int(start + _GOLDEN * (j + 1)) >> (64 - _BITS)) * 2.0**-_BITS for j in range(draws)]


def permutation(seed: int, epoch: int, n: int, *, stream: int = 0) -> Int[Tensor, "{n}"]:
    """Order of n samples in one epoch: (n,) int64 on the CPU, a function of the arguments alone.

    Example:
        >>> sorted(permutation(seed=0, epoch=3, n=5).tolist())
        [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(hash_seed(seed, epoch, stream))
    return torch.randperm(n, generator=generator)


def hash_seed(*numbers: int) -> int:
    """Mix integers into one 63-bit seed for a generator; the order counts, and (1, 2) differs from (1, 2, 0)."""
    state = _mix_int(len(numbers) + _GOLDEN)
    for number in numbers:
        state = _mix_int(state ^ _mix_int(number * _GOLDEN + 1))
    return state >> 1


def _key(seed: int, step: int, stream: int) -> int:
    """64 bits from what all samples of a call share."""
    state = _mix_int(seed + _GOLDEN)
    state = _mix_int(state ^ _mix_int(step * _GOLDEN + 1))
    return _mix_int(state ^ _mix_int(stream * _GOLDEN + 2))


def _mix_int(x: int) -> int:
    x &= _MASK
    x = ((x ^ (x >> 30)) * _MIX_1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX_2) & _MASK
    return x ^ (x >> 31)


def _mix(x: Tensor) -> Tensor:
    """`_mix_int` on int64 tensors, whose products wrap around modulo 2^64 like unsigned ones."""
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX_2)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Unsigned shift: torch's keeps the sign, so the copies of the sign bit are masked away."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The int64 with the same 64 bits."""
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x
