"""Weight files: safetensors written in a stream, and any weight file read without trusting it.

A file that Surnia writes carries a SHA-256 of its own header and data, because the format does not notice flipped bits;
so do checkpoints, in their manifest. Files of others are as good as their format: a zip made by `torch.save` has CRC
sums, which torch does not look at and `read_weights` does; foreign safetensors and torch's old form have nothing.
"""

import hashlib
import io
import json
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from sslcore.errors import CheckpointError
from sslcore.storage import files
from sslcore.storage.messages import show_path
from sslcore.storage.tree import plain_tensor

_DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_HEADER_LIMIT = 100_000_000  # of the format
_LARGEST = 1 << 40
_METADATA, _DIGEST = "surnia", "surnia.sha256"
_WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
_REMEDY = "get the file anew, or give another one"


# --- writing -----------------------------------------------------------------------------------------------------


def write_weights(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes tensors to a safetensors file that any reader of the format understands, atomically.

    Args:
        path: the file, by custom `*.safetensors`; replaced if it exists.
        tensors: {name: tensor} of any device and strides. Tensors that share storage are written once each.
        metadata: plain values that travel along (which backbone, its preprocessing); `read_metadata` gives them back.

    Raises:
        CheckpointError: a value is not a plain tensor, the metadata is not plain, or the file cannot be written.
    """
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata of {show_path(path)} must be plain JSON values: {error}") from error
    files.write_chunks(path, safetensors_chunks(tensors, {_METADATA: text}, digest=True))


def safetensors_chunks(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, digest: bool = False
) -> Iterator[Any]:
    """The bytes of a safetensors file, tensor by tensor, so that only one of them is copied at a time.

    Args:
        tensors: {name: tensor}.
        metadata: {key: text} for the header.
        digest: whether to put a SHA-256 of header and data in the metadata; costs a second pass over the data.

    Raises:
        CheckpointError: a name or a value that the format cannot hold.
    """
    plain = {name: _checked(name, tensor) for name, tensor in tensors.items()}
    # As in every file of the format: wide types first, so that all data is aligned to its type.
    names = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    places = {}
    for name in names:
        size = plain[name].numel() * plain[name].element_size()
        places[name] = [offset, offset + size]
        offset += size
    for name, tensor in plain.items():  # the header keeps the caller's order
        shape, dtype = list(tensor.shape), _DTYPE_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": places[name]}
    if digest:
        summed = hashlib.sha256(_canonical(header))
        for name in names:
            summed.update(_data(plain[name]))
        header["__metadata__"][_DIGEST] = summed.hexdigest()
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > _HEADER_LIMIT:
        raise CheckpointError("the tensors' names and metadata are longer than a safetensors file may hold (100 MB)")
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield _data(plain[name])


def _checked(name: Any, tensor: Any) -> Tensor:
    if type(name) is not str or name == "__metadata__":
        raise CheckpointError(f"{name!r} cannot be the name of a stored tensor; rename it")
    tensor = plain_tensor(tensor, f"the weight {name!r}")
    if tensor.dtype not in _DTYPE_NAMES:
        raise CheckpointError(
            f"the weight {name!r} is of {tensor.dtype}, which is not stored; convert it before saving"
        )
    return tensor


def _data(tensor: Tensor) -> Any:
    return tensor.resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode("utf-8")


# --- reading -----------------------------------------------------------------------------------------------------


def read_weights(path: str | os.PathLike[str], *, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of a weight file from anywhere; nothing in it is executed.

    Read are safetensors, what `torch.save` writes (`.pth`, `.pt`, `.ckpt`, `.pth.tar`), told apart by content, and
    Surnia's checkpoint folders. A state dict inside a training checkpoint (under "state_dict", "model", ...) is found,
    a "module." that `DataParallel` put before every name is taken off, and what is not a tensor is left out.

    Args:
        path: the file or checkpoint folder.
        prefix: only the tensors whose names begin so, without it ("encoder.").

    Returns:
        {name: tensor}, dense, on the CPU, without gradients; at least one.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, would run code, or holds no such tensor.
    """
    path = Path(path)
    tensors = _read_all(path)
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    chosen = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not chosen:
        found = ", ".join(sorted({name.split(".")[0] for name in tensors})[:8])
        raise CheckpointError(
            f"{show_path(path)} has no weights that begin with {prefix!r}; its names begin with {found}"
            if tensors
            else f"{show_path(path)} holds no weights; give a file with a model's state dict"
        )
    return chosen


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_weights` was given as metadata, or the `info` of a checkpoint folder; {} for foreign files.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(path)
    if path.is_dir():
        from sslcore.storage.checkpoint import read_info

        return read_info(path)
    if not _looks_like_safetensors(_head(path)):
        return {}
    metadata = _header(_content(path), path).get("__metadata__", {})
    try:
        value = json.loads(metadata.get(_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the metadata of {show_path(path)} cannot be read; {_REMEDY}") from error
    return value if type(value) is dict else {}


def load_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file's content, whose own digest is checked if it has one.

    Raises:
        CheckpointError: the content is damaged or not of this format. `path` is for the sentence.
    """
    header = _header(data, path)
    metadata = header.get("__metadata__", {})
    expected = metadata.pop(_DIGEST, None)
    if expected is not None or _METADATA in metadata:
        summed = hashlib.sha256(_canonical(header))
        summed.update(memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
        if summed.hexdigest() != expected:
            raise CheckpointError(f"{show_path(path)} is damaged: its content does not match its hash; {_REMEDY}")
    try:
        tensors = parse_safetensors(data)
        return {name: tensors[name] for name in header if name != "__metadata__"}
    except MemoryError as error:
        raise CheckpointError(f"{show_path(path)} does not fit in memory; {_REMEDY}") from error
    except Exception as error:  # the parser's own type, but also what torch says of shapes and types
        raise CheckpointError(f"{show_path(path)} is not a whole safetensors file ({error}); {_REMEDY}") from error


def _header(data: bytes, path: Path) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    try:
        if not 2 <= length <= min(_HEADER_LIMIT, len(data) - 8):
            raise ValueError("its header does not fit in the file")
        header = json.loads(data[8 : 8 + length])
        if type(header) is not dict or type(header.get("__metadata__", {})) is not dict:
            raise ValueError("its header is not an object")
        if not all(type(v) is str for v in header.get("__metadata__", {}).values()):
            raise ValueError("its metadata is not text")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{show_path(path)} is not a whole safetensors file ({error}); {_REMEDY}") from error
    return header


def _content(path: Path) -> bytes:
    return files.read_file(path, limit=_LARGEST, error=CheckpointError, remedy="give an existing weight file")


def _head(path: Path) -> bytes:
    try:
        with open(files.open_regular(path), "rb") as file:
            return file.read(9)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"cannot read {show_path(path)}: {reason}; give an existing weight file") from error


def _looks_like_safetensors(head: bytes) -> bool:
    return len(head) >= 9 and int.from_bytes(head[:8], "little") <= _HEADER_LIMIT and head[8:9] == b"{"


def _read_all(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        from sslcore.storage.checkpoint import read_model

        return read_model(path)
    head = _head(path)
    if _looks_like_safetensors(head) or path.suffix == ".safetensors":
        return load_safetensors(_content(path), path)
    return _load_torch(_content(path), path)


def _load_torch(data: bytes, path: Path) -> dict[str, Tensor]:
    shown = show_path(path)
    size = len(data)
    file = _rezipped(data, shown) if data.startswith(b"PK") else io.BytesIO(data)
    del data  # of large files one copy is enough
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated storages in old files, which do not concern the user
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise CheckpointError(f"{shown} does not fit in memory; {_REMEDY}") from error
    except Exception as error:  # the unpickler raises whatever the bytes make it raise
        if "Unsupported global" in str(error) or "Unsupported class" in str(error) or "WeightsUnpickler" in str(error):
            raise CheckpointError(
                f"{shown} is not a plain weight file: it wants to run code or make objects while it is loaded; if you "
                "trust it, load it with torch yourself and save model.state_dict() alone"
            ) from error
        raise CheckpointError(
            f"{shown} is damaged or not a weight file that Surnia reads (safetensors, torch.save of a state dict); "
            f"{_REMEDY}"
        ) from error
    tensors = {name: _sound(name, t, shown) for name, t in _state_dict(loaded).items()}
    # A few bytes can describe a tensor of any size; nothing larger than the file can honestly come out of it, but for
    # weights that share storage.
    if sum(t.numel() * t.element_size() for t in tensors.values()) > 4 * size + (64 << 20):
        raise CheckpointError(f"{shown} describes tensors far larger than itself; {_REMEDY}")
    return {name: t.contiguous() for name, t in tensors.items()}


def _rezipped(data: bytes, shown: str) -> io.BytesIO:
    """A zip of torch.save written anew from entries whose CRC sums are right.

    Torch's reader believes every size in a zip's directory and can hand out memory that was never written; in a zip
    that was written here there is nothing left to disbelieve. Compressed entries are refused: torch writes none, and
    they could unfold to any size.

    Raises:
        CheckpointError: the zip is damaged, or not one of torch.save.
    """
    anew = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(anew, "w") as copy:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
                raise CheckpointError(
                    f"{shown} has compressed or encrypted entries, as torch.save never writes; {_REMEDY}"
                )
            if sum(e.file_size for e in entries) > len(data) or len({e.filename for e in entries}) < len(entries):
                raise CheckpointError(f"{shown} has entries that overlap; {_REMEDY}")
            for entry in entries:
                content = archive.read(entry)  # compares the sum
                if len(content) != entry.file_size:
                    raise zipfile.BadZipFile(f"{entry.filename!r} is not whole")
                copy.writestr(zipfile.ZipInfo(entry.filename), content)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile, too, raises whatever the bytes make it raise
        reason = show_path(str(error)) or type(error).__name__
        raise CheckpointError(f"{shown} is a damaged or incomplete weight file ({reason}); {_REMEDY}") from error
    anew.seek(0)
    return anew


def _state_dict(loaded: Any) -> dict[str, Any]:
    """The state dict, or the first one inside a training checkpoint."""
    for _ in range(3):
        if not isinstance(loaded, dict):
            break
        found = {k: v for k, v in loaded.items() if type(k) is str and isinstance(v, Tensor)}
        inner = next((loaded[w] for w in _WRAPPERS if isinstance(loaded.get(w), dict)), None)
        if inner is None:
            return found
        loaded = inner
    return {}


def _sound(name: str, tensor: Tensor, shown: str) -> Tensor:
    try:
        tensor = plain_tensor(tensor, f"{name!r} in {shown}")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_REMEDY}") from error
    if tensor.device.type != "cpu":
        raise CheckpointError(f"{name!r} in {shown} is on the device {tensor.device} and has no values; {_REMEDY}")
    return tensor.resolve_conj().resolve_neg()
