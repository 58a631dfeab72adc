import collections
import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslcore.errors import CheckpointError
from sslcore.storage import pack, unpack


def through_json(tree):
    skeleton, tensors = pack(tree)
    return unpack(json.loads(json.dumps(skeleton, allow_nan=False)), {k: t.clone() for k, t in tensors.items()})


def same(a, b):
    """Equal in value and type, all the way down; nan equals nan."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(-1).contiguous().nan_to_num(nan=-7.0)
            if a.is_floating_point() else a.view(-1), b.view(-1).nan_to_num(nan=-7.0)
            if b.is_floating_point() else b.view(-1))  # fmt: skip
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and np.shape(a) == np.shape(b) and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict):
        return list(a) == list(b) and [*map(type, a)] == [*map(type, b)] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


TENSORS = st.builds(
    lambda shape, dtype: torch.randn(shape).mul(5).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
ARRAYS = st.builds(
    lambda shape, dtype: np.ones(shape, dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "u2", "u4", "i8", "u8", "?"]),
).map(lambda a: a.astype(a.dtype.newbyteorder("=")))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**200), 2**200), st.floats(), st.text(max_size=5), TENSORS, ARRAYS,
    st.floats(width=32).map(np.float32), st.integers(0, 2**32 - 1).map(np.uint32), st.booleans().map(np.bool_),
    st.sampled_from([torch.Size([2, 3]), torch.Size([]), torch.float16, torch.device("cpu"), torch.device("cuda", 1)]),
)  # fmt: skip
KEYS = st.one_of(st.text(max_size=4), st.sampled_from(["tensor", "tuple", "__metadata__", "a.b", "#2"]), st.integers())
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict),
        st.dictionaries(KEYS, st.integers(), max_size=3).map(collections.Counter),
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(TREES)
def test_every_tree_comes_back_with_its_types(tree):
    assert same(through_json(tree), tree)


JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
              st.sampled_from(["t", "inf", "float32", "cuda:0", "0x1f", "nan", "meta", "os.system"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([
            "dict", "items", "ordered", "counter", "tuple", "int", "float", "size", "dtype", "device", "tensor",
            "device tensor", "complex tensor", "array", "scalar", "class", "__reduce__",
        ]), inner, max_size=2),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(JSONS)
def test_any_json_is_a_tree_of_the_listed_types_or_one_typed_error(skeleton):
    try:
        tree = unpack(skeleton, {"t": torch.ones(2, 2)})
    except CheckpointError:
        return
    pack(tree)  # raises for any type that is not listed


def test_depth_is_limited_both_ways():
    deep, loop = [], []
    for _ in range(5000):
        deep = [deep]
    loop.append({"self": loop})
    for tree in (deep, loop):
        with pytest.raises(CheckpointError, match="contain itself"):
            pack(tree)
    with pytest.raises(CheckpointError, match="too deep"):
        unpack(deep, {})
    level = []
    for _ in range(95):
        level = [level]
    assert through_json(level) == level


class Odd(int):
    pass


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"loops": [{"fn": print}]}, r"train\['loops'\]\[0\]\['fn'\] is a builtins\.builtin_function_or_method"),
        ({"a": {1.5: 0}}, r"train\['a'\] has the key 1.5"),
        ({"a": {True: 0}}, r"train\['a'\] has the key True"),
        ([Odd(3)], r"train\[0\] is a .*Odd"),
        ([1 << 70000], r"train\[0\] is an integer of 70001 bits"),
        ({"x": np.array([None])}, r"train\['x'\] is a numpy ndarray of object"),
        ({"x": np.array(["a"])}, r"train\['x'\] is a numpy ndarray of <U1"),
        ({"x": np.zeros(2, dtype=[("a", "f4")])}, r"train\['x'\] is a numpy"),
        ({"x": np.longdouble(1)}, r"train\['x'\] is a numpy longdouble"),
        ({"x": torch.eye(2).to_sparse()}, r"train\['x'\] is a sparse"),
        ({"x": torch.empty(2, device="meta")}, r"train\['x'\] is a tensor on the device 'meta'"),
        ({"x": {1, 2}}, r"train\['x'\] is a builtins.set"),
        ({"x": b"ab"}, r"train\['x'\] is a builtins.bytes"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(value, where):
    with pytest.raises(CheckpointError, match=where):
        pack(value, name="train")


def test_keys_are_paths_and_never_collide():
    tree = {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}, "__metadata__": torch.ones(2), "": torch.zeros(2)}
    skeleton, tensors = pack(tree)
    assert len(tensors) == 4
    assert {"a.b", "a.b#2", "__metadata__#2"} < set(tensors)
    assert same(unpack(skeleton, tensors), tree)
    assert list(pack(torch.ones(1))[1]) == ["value"]


def test_random_states_continue_bit_for_bit():
    generators = random.Random(3), np.random.RandomState(3), np.random.default_rng(3), torch.Generator().manual_seed(3)
    python, legacy, numpy, pytorch = generators
    python.gauss(0, 1), legacy.standard_normal(), numpy.standard_normal(dtype="f4"), torch.rand(5, generator=pytorch)
    state = through_json([
        python.getstate(), legacy.get_state(), numpy.bit_generator.state, pytorch.get_state(),
    ])  # fmt: skip

    def draw():
        return (python.gauss(0, 1), python.random(), legacy.standard_normal(3).tolist(), numpy.integers(1 << 60),
                numpy.standard_normal(dtype="f4"), torch.randn(20, generator=pytorch).tolist())  # fmt: skip

    expected = draw()
    python.setstate(state[0]), legacy.set_state(state[1]), pytorch.set_state(state[3])
    numpy.bit_generator.state = state[2]
    assert draw() == expected


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_optimisers_and_schedules_continue_bit_for_bit(optimizer):
    def build():
        model = torch.nn.Linear(3, 2)
        opt = optimizer(model.parameters(), lr=0.1, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {}))
        steps = torch.optim.lr_scheduler.MultiStepLR(opt, [2, 4])
        return (
            model,
            opt,
            torch.optim.lr_scheduler.SequentialLR(opt, [torch.optim.lr_scheduler.LinearLR(opt), steps], [1]),
        )

    def train(model, opt, schedule):
        for i in range(3):
            opt.zero_grad()
            model(torch.full((4, 3), i + 1.0)).square().sum().backward()
            opt.step(), schedule.step()

    first, second = build(), build()
    train(*first)
    for part, state in zip(second, through_json([part.state_dict() for part in first]), strict=True):
        part.load_state_dict(state)
    train(*first), train(*second)
    assert torch.equal(first[0].weight, second[0].weight)
    assert same(through_json(first[1].state_dict()), through_json(second[1].state_dict()))


def test_complex_and_strided_tensors_and_parameters():
    tree = {"c": torch.randn(2, 3, dtype=torch.complex128).conj(), "t": torch.randn(4, 5).T[::2],
            "p": torch.nn.Parameter(torch.ones(2))}  # fmt: skip
    back = through_json(tree)
    assert torch.equal(back["c"], tree["c"].resolve_conj())
    assert torch.equal(back["t"], tree["t"])
    assert type(back["p"]) is torch.Tensor
    assert not back["p"].requires_grad


def test_tensors_from_the_host_stay_there_and_others_go_to_the_device():
    skeleton = {"dict": {"random": {"tensor": "a"}, "momentum": {"device tensor": "b"}}}
    tree = unpack(skeleton, {"a": torch.ones(1), "b": torch.ones(1)}, device="meta")
    assert tree["random"].device.type == "cpu"
    assert tree["momentum"].device.type == "meta"
