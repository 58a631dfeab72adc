"""What the chunked forms share: which pairs count, how large a tile is, and when no running maximum is needed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# exp(60) = 1e26 and exp(-60) = 9e-27: sums of either stay far inside float32, so scores within these bounds are
# exponentiated as they are. That saves the maximum of every tile and the rescaling of everything summed before it.
SAFE_EXPONENT = 60.0

# Relative to the largest term of a sum, exp(-80) = 2e-35 is nothing. What lies below is raised to it: exp of less than
# -87 is a denormal float32, which CPUs handle a hundred times slower than any other number.
FAINTEST = -80.0

# A tile of 2^20 float32 is 4 MB: it stays in the caches of a few cores, and a product of that size runs at full rate.
_TILE = 2**20
# A GPU is through with such a tile before Python has launched the next kernels: there a tile must be some 100 us of
# work, 2^24 float32 or 64 MB, and its memory, not a cache, is what bounds it.
_TILE_ON_GPU = 2**24


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which (query, key) pairs count.

    query_ids (n,) and key_ids (k,) or (n, k): pairs with equal ids are left out, or with keep_equal all others.
    own_key: key own_key + i is query i itself and is left out; None if no query is among the keys.
    """

    query_ids: Tensor | None = None
    key_ids: Tensor | None = None
    keep_equal: bool = False
    own_key: int | None = None

    def leave_out(self, tile: Tensor, row: int, column: int, value: float) -> None:
        """Write `value` where a pair does not count, into the tile whose first entry is pair (row, column)."""
        rows, columns = tile.shape
        if self.own_key is not None:
            diagonal = self.own_key + row - column
            if -rows < diagonal < columns:
                tile.diagonal(diagonal).fill_(value)
        if self.query_ids is not None and self.key_ids is not None:
            queries = self.query_ids[row : row + rows, None]
            keys = self.key_ids[..., column : column + columns]
            keys = keys[row : row + rows] if keys.dim() == 2 else keys
            tile.masked_fill_(queries != keys if self.keep_equal else queries == keys, value)


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of consecutive blocks; the last may be smaller."""
    for start in range(0, total, size):
        yield start, min(start + size, total)


def check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is the longest edge of a tile and must be at least 1, not {chunk}")


def tile_size(device: torch.device) -> int:
    """Numbers in a tile that suits the device."""
    return _TILE_ON_GPU if device.type == "cuda" else _TILE


def tile_shape(queries: int, keys: int, chunk: int, device: torch.device) -> tuple[int, int]:
    """(rows, columns) of a tile; `chunk` > 0 asks for at most chunk x chunk."""
    if chunk > 0:
        return min(chunk, max(queries, 1)), min(chunk, max(keys, 1))
    rows = min(max(queries, 1), 4096 if device.type == "cuda" else 512)
    return rows, min(max(keys, 1), tile_size(device) // rows)


def needs_no_shift(scale: Tensor, q: Tensor, k: Tensor | None) -> bool:
    """Whether every |score| is known to be within SAFE_EXPONENT, without waiting for a GPU.

    k None: rows have at most unit length, so that a score is at most the scale.
    """
    if scale.device.type != "cpu" or (k is not None and q.device.type != "cpu"):
        return False
    bound = abs(float(scale))
    if k is not None and q.numel() and k.numel():
        bound *= float(_longest(q)) * float(_longest(k))
    return bound <= SAFE_EXPONENT


def _longest(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).max()


def relative_exp_(scores: Tensor) -> Tensor:
    """exp in place, of scores relative to their largest or to their log-sum-exp; see FAINTEST."""
    return scores.clamp_(min=FAINTEST).exp_()


def closed(lse: Tensor) -> Tensor:
    """+inf in place of -inf: exp(score - lse) is then 0, not NaN, for a row without any key."""
    return lse.masked_fill(lse.isneginf(), torch.inf)
