"""Nested state as a plain skeleton and a flat set of tensors: what a checkpoint stores instead of a pickle.

Every JSON object in the skeleton is a tagged node, `{"tuple": [...]}`, so that no key of the user's can be taken for a
tag, and so that unpacking creates only the types listed here: reading looks nothing up by
name in a module, let alone calls it.
"""

import collections
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from sslcore.errors import CheckpointError
from sslcore.storage.messages import show_path

Skeleton: TypeAlias = Any

_DEEPEST = 100  # several Python calls a level, of the 1000 Python allows
_LONGEST_INT = 1 << 16  # bits
_DTYPES = {str(d).removeprefix("torch."): d for d in vars(torch).values() if isinstance(d, torch.dtype)}
_NUMPY_KINDS = "biuf"  # booleans, integers, floats; the rest of numpy has no tensor of the same kind
_SAFE_INT = 1 << 53  # beyond it other readers of JSON lose digits


def pack(tree: Any, *, name: str = "state") -> tuple[Skeleton, dict[str, Tensor]]:
    """Splits a nested state into a JSON-able skeleton and its tensors.

    Kept exactly, type included: None, bool, int, float (nan and infinity too), str, list, tuple, dict, OrderedDict and
    Counter with str or int keys, Tensor, Parameter (comes back as a Tensor), numpy arrays and scalars of booleans,
    integers and floats, torch.Size, torch.dtype, torch.device.

    Args:
        tree: the state; it must not contain itself.
        name: what to call it in an error.

    Returns:
        The skeleton and {key: tensor}. The keys are the tensors' paths in the tree. The tensors are the tree's own, not
        copies; two that share storage are two entries.

    Raises:
        CheckpointError: something else is in the tree; the sentence gives its path.
    """
    packer = _Packer()
    return packer.pack(tree, name, ""), packer.tensors


def unpack(skeleton: Skeleton, tensors: Mapping[str, Tensor], *, device: torch.device | str = "cpu") -> Any:
    """The state that `pack` was given.

    Args:
        skeleton: what `pack` returned, perhaps after a trip through JSON. It is not trusted.
        tensors: what `pack` returned, on any device.
        device: where tensors go that were not on the CPU when they were packed. The others (random states, counters)
            stay on the CPU.

    Raises:
        CheckpointError: the skeleton is not one, or a tensor is missing.
    """
    return _Unpacker(tensors, torch.device(device)).unpack(skeleton, 0)


# --- packing -----------------------------------------------------------------------------------------------------


class _Packer:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def pack(self, value: Any, path: str, key: str, depth: int = 0) -> Skeleton:
        """`path` is how Python would write the place of the value, `key` the shorter name for its tensor."""
        if depth > _DEEPEST:
            raise CheckpointError(f"{path[:200]}... is nested too deep to be stored; does the state contain itself?")
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return _pack_int(value, path)
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if kind is list:
            return self._pack_all(value, path, key, depth)
        if kind is tuple:
            return {"tuple": self._pack_all(value, path, key, depth)}
        if kind in (dict, collections.OrderedDict, collections.Counter):
            return self._pack_mapping(value, path, key, depth)
        if kind is torch.Size:
            return {"size": list(value)}
        if kind is torch.dtype:
            return {"dtype": str(value).removeprefix("torch.")}
        if kind is torch.device:
            return {"device": str(value)}
        if isinstance(value, Tensor):
            return self._pack_tensor(value, path, key)
        if isinstance(value, np.ndarray | np.generic):
            return self._pack_numpy(value, path, key)
        raise CheckpointError(
            f"{path} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint does not store; "
            "give plain values, containers, tensors or numpy arrays"
        )

    def _pack_all(self, values: Iterable[Any], path: str, key: str, depth: int) -> list[Skeleton]:
        return [self.pack(v, f"{path}[{i}]", f"{key}.{i}", depth + 1) for i, v in enumerate(values)]

    def _pack_mapping(self, value: Mapping[Any, Any], path: str, key: str, depth: int) -> Skeleton:
        for k in value:
            if type(k) not in (str, int):
                raise CheckpointError(
                    f"{path} has the key {k!r}, a {type(k).__qualname__}; keys must be str or int to be stored"
                )
        packed = [(k, self.pack(v, f"{path}[{k!r}]", f"{key}.{k}", depth + 1)) for k, v in value.items()]
        if type(value) is dict and all(type(k) is str for k in value):
            return {"dict": dict(packed)}
        tag = {dict: "items", collections.OrderedDict: "ordered", collections.Counter: "counter"}[type(value)]
        return {tag: [[k if type(k) is str else _pack_int(k, path), v] for k, v in packed]}

    def _pack_tensor(self, value: Tensor, path: str, key: str) -> Skeleton:
        value = plain_tensor(value, path)
        # Host tensors must come back to the host (a random state on a GPU is of no use), the others go to the device.
        tag = "tensor" if value.device.type == "cpu" else "device tensor"
        if value.is_complex():
            return {f"complex {tag}": self._add(torch.view_as_real(value.resolve_conj()), key)}
        return {tag: self._add(value, key)}

    def _pack_numpy(self, value: Any, path: str, key: str) -> Skeleton:
        array = np.asarray(value)
        native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)
        try:
            if native.dtype.kind not in _NUMPY_KINDS or native.dtype.names or type(value) is np.ma.MaskedArray:
                raise TypeError
            tensor = torch.from_numpy(native if native.flags.writeable else native.copy())
        except TypeError:
            raise CheckpointError(
                f"{path} is a numpy {type(value).__qualname__} of {array.dtype}, which a checkpoint does not store; "
                "give numbers or booleans of at most 64 bits"
            ) from None
        return {"array" if isinstance(value, np.ndarray) else "scalar": self._add(tensor, key)}

    def _add(self, tensor: Tensor, key: str) -> str:
        key = key.lstrip(".") or "value"
        unique, count = key, 1
        while unique in self.tensors or unique == "__metadata__":  # the latter is not free in a safetensors file
            count += 1
            unique = f"{key}#{count}"
        self.tensors[unique] = tensor
        return unique


def _pack_int(value: int, path: str) -> Skeleton:
    if abs(value) < _SAFE_INT:
        return value
    if value.bit_length() > _LONGEST_INT:
        raise CheckpointError(f"{path} is an integer of {value.bit_length()} bits, too long to be stored")
    return {"int": hex(value)}


def plain_tensor(value: Any, path: str) -> Tensor:
    """The tensor without its graph, if it is a dense one with values.

    Raises:
        CheckpointError: it is a subclass that means something else, sparse, quantised, or without values.
    """
    if type(value) not in (Tensor, nn.Parameter):
        raise CheckpointError(f"{path} is a {type(value).__qualname__}, not a plain tensor; convert it before saving")
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        raise CheckpointError(f"{path} is a sparse, nested or quantised tensor; make it dense before saving")
    if value.is_meta:
        raise CheckpointError(f"{path} is a tensor on the device 'meta', without values; materialise it before saving")
    return value.detach()


# --- unpacking ---------------------------------------------------------------------------------------------------


class _Unpacker:
    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.tensors, self.device = tensors, device
        self.nodes: dict[str, Callable[[Any, int], Any]] = {
            "dict": self._dict,
            "items": lambda v, depth: dict(self._pairs(v, depth)),
            "ordered": lambda v, depth: collections.OrderedDict(self._pairs(v, depth)),
            "counter": lambda v, depth: collections.Counter(dict(self._pairs(v, depth))),
            "tuple": lambda v, depth: tuple(self._list(v, depth)),
            "int": lambda v, depth: _int(v),
            "float": lambda v, depth: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[_text(v)],
            "size": lambda v, depth: torch.Size([_natural(i) for i in _list(v)]),
            "dtype": lambda v, depth: _DTYPES[_text(v)],
            "device": lambda v, depth: torch.device(_text(v)),
            "tensor": lambda v, depth: self.tensors[_text(v)].cpu(),
            "device tensor": lambda v, depth: self.tensors[_text(v)].to(self.device),
            "complex tensor": lambda v, depth: torch.view_as_complex(self.tensors[_text(v)].cpu()),
            "complex device tensor": lambda v, depth: torch.view_as_complex(self.tensors[_text(v)].to(self.device)),
            "array": lambda v, depth: self.tensors[_text(v)].cpu().numpy(),
            "scalar": lambda v, depth: self.tensors[_text(v)].cpu().numpy()[()],
        }

    def unpack(self, node: Skeleton, depth: int) -> Any:
        if depth > _DEEPEST + 1:
            raise CheckpointError("the stored state is nested too deep to be one of Surnia's")
        if node is None or type(node) in (bool, int, float, str):
            return node
        if type(node) is list:
            return self._list(node, depth)
        if type(node) is dict and len(node) == 1:
            [(tag, value)] = node.items()
            if tag in self.nodes:
                try:
                    return self.nodes[tag](value, depth)
                except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
                    raise CheckpointError(
                        f"the stored state has a {tag} that cannot be read "
                        f"({type(error).__name__}: {show_path(str(error))}); use another checkpoint"
                    ) from error
        raise CheckpointError("the stored state is not in Surnia's form; use another checkpoint")

    def _list(self, value: Any, depth: int) -> list[Any]:
        return [self.unpack(v, depth + 1) for v in _list(value)]

    def _dict(self, value: Any, depth: int) -> dict[str, Any]:
        if type(value) is not dict:
            raise TypeError("not an object")
        return {k: self.unpack(v, depth + 1) for k, v in value.items()}

    def _pairs(self, value: Any, depth: int) -> list[tuple[str | int, Any]]:
        pairs = []
        for pair in _list(value):
            key, item = _list(pair)
            key = self.unpack(key, depth + 1)
            if type(key) not in (str, int):
                raise TypeError("a key that is neither str nor int")
            pairs.append((key, self.unpack(item, depth + 1)))
        return pairs


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise TypeError("not a list")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("not a text")
    return value


def _int(value: Any) -> int:
    if len(_text(value)) > _LONGEST_INT:
        raise ValueError("too long")
    return int(value, 16)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("not a size")
    return value
