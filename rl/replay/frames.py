"""Frames, each stored once as uint8, found by number and counted by who refers to them."""

import math

import numpy as np
import torch
from torch import Tensor

from rl.replay import memory
from sslcore.errors import ConfigError

CHUNK_BYTES = 1 << 24  # of frames in one file of a saved buffer: what a single new frame makes be written again


class FramePool:
    """Room for frames with reference counts.

    A ring would not do: how many frames N transitions need depends on how many episodes they are of. Here a frame's
    place is free as soon as the last stack with it has gone, and taken again before new memory is touched.

    Args:
        capacity: frames to make room for; it grows if need be.
        frame_shape: (channels, height, width).
        device: where the frames lie. On the CPU the system hands out the memory as it is first written to.

    Attributes:
        used: places below this number have been written to.
        references: (capacity,) how often a stored stack refers to the frame.
        changed: (chunks,) whether a frame was written to the chunk since it was last saved.
    """

    def __init__(self, capacity: int, frame_shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.frame_shape, self.device = tuple(frame_shape), torch.device(device)
        self.chunk_frames = max(CHUNK_BYTES // math.prod(frame_shape), 1)
        self._store = self._allocate(capacity)
        self.references = np.zeros(capacity, dtype=np.int32)
        self._released: list[int] = []
        self.used = 0
        self.changed = np.zeros(0, dtype=bool)

    @property
    def capacity(self) -> int:
        return len(self.references)

    @property
    def nbytes(self) -> int:
        return int(self._store.nbytes) + self.references.nbytes

    @property
    def frames(self) -> Tensor:
        """(capacity, channels, height, width) uint8: the memory itself, until it next grows."""
        return self._store if isinstance(self._store, Tensor) else torch.from_numpy(self._store)

    def clear(self) -> None:
        """Forgets all frames."""
        self.references[:] = 0
        self._released.clear()
        self.used = 0
        self.changed = np.zeros(0, dtype=bool)

    # --- taking and giving back ----------------------------------------------------------------------------------

    def reserve(self, count: int) -> None:
        """Makes sure that `count` frames can be put.

        Raises:
            ConfigError: they need more memory than there is.
        """
        missing = count - len(self._released) - (self.capacity - self.used)
        if missing > 0:
            self._grow(max(missing, self.capacity // 32))

    def put(self, frame: np.ndarray) -> int:
        """Stores a frame and returns its place, which is kept once `hold` is told of it."""
        if self._released:
            place = self._released.pop()
        else:
            place, self.used = self.used, self.used + 1
        self._write(place, torch.from_numpy(np.ascontiguousarray(frame)))
        return place

    def hold(self, places: np.ndarray) -> None:
        """Counts one reference for every entry."""
        np.add.at(self.references, places.ravel(), 1)

    def release(self, places: np.ndarray) -> None:
        """Takes one reference away for every entry; what nobody refers to any more is free."""
        np.subtract.at(self.references, places.ravel(), 1)
        unique = np.unique(places)
        self._released.extend(unique[self.references[unique] == 0].tolist())

    def gather(self, places: np.ndarray, device: torch.device) -> Tensor:
        """Copies of frames, (n, channels, height, width) on `device`, for (n,) places. Never waits for a GPU."""
        index = torch.from_numpy(places.astype(np.int64).ravel())
        if self.device.type != "cpu":
            return self.frames.index_select(0, _sent(index, self.device)).to(device)
        out = torch.empty((len(index), *self.frame_shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
        torch.index_select(self.frames, 0, index, out=out)
        return out.to(device, non_blocking=True)

    def _write(self, place: int, frame: Tensor) -> None:
        chunk = place // self.chunk_frames
        if chunk >= len(self.changed):
            self.changed = np.append(self.changed, np.ones(chunk + 1 - len(self.changed), dtype=bool))
        self.changed[chunk] = True
        self.frames[place].copy_(_sent(frame, self.device), non_blocking=True)

    # --- whole chunks, for files ---------------------------------------------------------------------------------

    def chunk(self, number: int) -> np.ndarray:
        """(n, channels, height, width) the frames of a chunk, as far as places have been used."""
        start = number * self.chunk_frames
        return self.frames[start : min(start + self.chunk_frames, self.used)].cpu().numpy()

    def fill(self, number: int, frames: np.ndarray) -> None:
        """Puts a chunk back."""
        start = number * self.chunk_frames
        self.frames[start : start + len(frames)].copy_(torch.from_numpy(frames))

    def recount(self, places: np.ndarray, used: int) -> None:
        """Sets the references to those of `places`, all below `used`, after chunks were filled; nothing is changed."""
        self.references[:] = 0
        self.used = used
        self.hold(places)
        self._released = np.flatnonzero(self.references[:used] == 0).tolist()
        self.changed = np.zeros(-(-used // self.chunk_frames), dtype=bool)

    # --- memory --------------------------------------------------------------------------------------------------

    def _allocate(self, capacity: int) -> np.ndarray | Tensor:
        shape = (capacity, *self.frame_shape)
        try:
            if self.device.type == "cpu":
                return np.zeros(shape, dtype=np.uint8)  # unlike torch.zeros it leaves the pages untouched
            return torch.empty(shape, dtype=torch.uint8, device=self.device)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise ConfigError(self._refusal(capacity)) from error

    def _grow(self, count: int) -> None:
        """More room: episodes are shorter than was reckoned with."""
        capacity = self.capacity + count
        free = memory.available_bytes(str(self.device))
        if free is not None and count * math.prod(self.frame_shape) > free:
            raise ConfigError(self._refusal(capacity))
        if isinstance(self._store, Tensor):
            grown = self._allocate(capacity)
            assert isinstance(grown, Tensor)
            grown[: self.used] = self._store[: self.used]
            self._store = grown
        else:
            try:
                # In place (the system remaps its pages): never both copies at once. Nobody keeps a view of the store.
                self._store.resize((capacity, *self.frame_shape), refcheck=False)
            except MemoryError as error:
                raise ConfigError(self._refusal(capacity)) from error
        self.references = np.append(self.references, np.zeros(count, dtype=np.int32))

    def _refusal(self, capacity: int) -> str:
        size = capacity * math.prod(self.frame_shape) / 1e9
        return (
            f"the replay buffer's {capacity:,} frames ({size:.2f} GB) do not fit into the memory of {self.device}; "
            "lower buffer_size or the size of the image (short episodes need more frames a transition)"
        )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a copy from page-locked memory does not wait for what the GPU is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
