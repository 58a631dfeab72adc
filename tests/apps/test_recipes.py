import json
import string
from typing import Annotated, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from apps.recipe_files import shipped
from apps.recipe_options import split_options
from apps.recipe_text import dump, flow
from apps.recipes import load, load_recipe
from apps.schema import listing
from sslcore.errors import ConfigError
from sslcore.pretrain.recipe import Recipe
from sslcore.yaml_source import MAX_CHARACTERS, read_yaml


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What a person is told about a recipe with these lines and options."""
    monkeypatch.chdir(tmp_path)

    def problems(text, *options):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load("r.yaml", options, Recipe)
        return list(caught.value.problems)

    return problems


def read(tmp_path, text, *options):
    (tmp_path / "r.yaml").write_text(text)
    return load(str(tmp_path / "r.yaml"), options, Recipe)


# --- sentences about a file ------------------------------------------------------------------------------------------

METHODS = "moco, simclr, supcon, byol, swav, pcl"
CODE = "a recipe names only Surnia's own parts, never code to import"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method: byol\nepoch: 5", "r.yaml:2:1  unknown key 'epoch'; did you mean 'epochs'?"),
        ("method: byol\nlr: 5", "r.yaml:2:1  unknown key 'lr'; did you mean 'optimizer.lr'?"),
        (
            "method: byol\ntemperatur: 1",
            "r.yaml:2:1  unknown key 'temperatur'; did you mean 'method.temperature' or 'probe.temperature'?",
        ),
        (
            "method:\n  name: byol\n  queue: 3",
            "r.yaml:3:3  unknown key 'queue' in method (byol); there are name, momentum, projector, predictor",
        ),
        (
            "method: byol\noptimizer:\n  lrr: 3",
            "r.yaml:3:3  unknown key 'lrr' in optimizer; did you mean 'lr'?",
        ),
        ("method:\n  name: moco\n  temperature: -1", "r.yaml:3:16  method.temperature must be above 0, not -1"),
        ("method: {name: moco, momentum: 1.5}", "r.yaml:1:32  method.momentum must be at most 1, not 1.5"),
        ("method: byol\nseed: 3000000000", "r.yaml:2:7  seed must be below 2147483648, not 3000000000"),
        ("method: byol\nepochs: 0", "r.yaml:2:9  epochs must be at least 1, not 0"),
        ("method: byol\nepochs: ten", "r.yaml:2:9  epochs must be a whole number of at least 1, not 'ten'"),
        ("method: byol\nepochs: 10.5", "r.yaml:2:9  epochs must be a whole number of at least 1, not 10.5"),
        ("method: byol\nepochs: true", "r.yaml:2:9  epochs must be a whole number of at least 1, not true"),
        ("method: byol\nepochs:", "r.yaml:2:8  epochs must be a whole number of at least 1, not nothing"),
        ("method: byol\nsync_batchnorm: yes", "r.yaml:2:17  sync_batchnorm must be true or false, not 'yes'"),
        ("method: byol\nsync_batchnorm: 1", "r.yaml:2:17  sync_batchnorm must be true or false, not 1"),
        ("method: byol\ndata: {path: [a]}", "r.yaml:2:14  data.path must be text, not a list"),
        ("method: byol\noptimizer: 3", "r.yaml:2:12  optimizer must be a group of settings, not 3"),
        ("method: byol\nviews: 3", "r.yaml:2:8  views must be a list, each a group of settings, not 3"),
        ("method: byol\nviews: [{count: 2, size: 0}]", "r.yaml:2:26  views.0.size must be at least 1, not 0"),
        ("method: byol\nviews: [{count: 2, scale: [1]}]", "r.yaml:2:27  views.0.scale has too few entries"),
        (
            "method: byol\nviews: [{count: 2, scale: [0, 1, 1]}]",
            "r.yaml:2:27  views.0.scale must have 2 entries, not 3",
        ),
        ("method: {name: simclr, projector: []}", "r.yaml:1:35  method.projector must not be empty"),
        ("method: byol\noptimizer: {lr: .nan}", "r.yaml:2:17  optimizer.lr must be a number above 0, not .nan"),
        ("method: byol\noptimizer: {lr: 1e999}", "r.yaml:2:17  optimizer.lr must be a number above 0, not 1e999"),
        (
            "method: byol\nbackbone: {name: resnet52}",
            "r.yaml:2:18  backbone.name must be one of resnet18, resnet34, resnet50, tiny, pixel_encoder, not "
            "'resnet52'; did you mean 'resnet50'?",
        ),
        (
            "method: byol\ndevices: many",
            "r.yaml:2:10  devices must be auto or a whole number of at least 1, not 'many'",
        ),
        ("method: byol\ndevices: 0", "r.yaml:2:10  devices must be auto or a whole number of at least 1, not 0"),
        (
            "method: mocov2",
            f"r.yaml:1:9  method.name must be one of {METHODS}, not 'mocov2'; did you mean 'moco'?",
        ),
        ("method: {temperature: 1}", f"r.yaml:1:9  method.name is missing: one of {METHODS}"),
        ("method: 3", "r.yaml:1:9  method must be a group of settings, not 3"),
        ("epochs: 3", f"r.yaml:1:1  method is missing: say `method: {{name: ...}}` with one of {METHODS}"),
        ("", f"r.yaml:1:1  method is missing: say `method: {{name: ...}}` with one of {METHODS}"),
        ("- 1", "r.yaml:1:1  a recipe is made of `key: value` lines, not a list or a single value"),
        ("just text", "r.yaml:1:1  a recipe is made of `key: value` lines, not a list or a single value"),
        # checks across fields
        (
            "method:\n  name: byol\n  predictor: [64, 64]",
            "r.yaml:3:14  method.predictor must end as wide as projector (256), not 64",
        ),
        (
            "method: simclr\nviews: [{count: 3}]",
            "r.yaml:2:8  views must add up to exactly 2 for simclr, not 3; swav takes more",
        ),
        (
            "method: simclr\nviews: [{count: 1}]",
            "r.yaml:2:8  views must add up to at least 2 views of an image: set `count: 2` or list two kinds",
        ),
        (
            "method: simclr\nviews: [{size: 32}, {size: 64}]",
            "r.yaml:2:28  views.1.size must equal views.0.size (32): the first two views are compared",
        ),
        (
            "method: {name: moco, queue: 100}",
            "r.yaml:1:29  method.queue must hold at least the keys of one optimiser step (256), not 100",
        ),
        (
            "method: simclr\nviews:\n- count: 2\n  scale: [0.5, 0.2]",
            "r.yaml:4:10  views.0.scale is a range and must not begin above its end (0.5 > 0.2)",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence_with_its_place(told, text, sentence):
    assert told(text) == [sentence]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "a: !!python/object/apply:os.system [ls]",
            "r.yaml:1:4  tags (!!python/object/apply:os.system) are not allowed",
        ),
        ("a: !!python/name:os.system x", "r.yaml:1:4  tags (!!python/name:os.system) are not allowed"),
        ("a: !!python/module:antigravity x", "r.yaml:1:4  tags (!!python/module:antigravity) are not allowed"),
        ("a: !Mine {b: 1}", "r.yaml:1:4  tags (!Mine) are not allowed"),
        ("a: &x [1]\nb: *x", "r.yaml:2:4  aliases (*x) are not allowed in a recipe; write the value out"),
        ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]", "r.yaml:2:8  aliases (*a) are not allowed"),
        ("base: &b {a: 1}\nc:\n  <<: *b", "r.yaml:3:7  aliases (*b) are not allowed"),
        ("a: 1\na: 2", "r.yaml:2:1  key 'a' is given twice; the first stands at r.yaml:1:1"),
        ("a: 1\n---\nb: 1", "r.yaml:2:1  a second document begins here ('---'); a recipe is one document"),
        ("%YAML 1.1\n---\na: 1", "r.yaml:2:1  directives (%YAML, %TAG) are not allowed in a recipe"),
        ("? [a]\n: 1", "r.yaml:1:3  a key must be a plain word, not a list or a group"),
        ("[" * 60, "r.yaml:1:21  is nested more than 20 levels deep"),
        ("a:\n\tb: 1", "r.yaml:2:1  a tab is used for indentation; use spaces"),
        ("a: b: c", "r.yaml:1:5  a ':' stands where no key can be; check the indentation, or quote the text"),
        ("a:\n  b: 1\n c: 2", "r.yaml:3:2  the indentation does not match the lines above"),
        ("a: [1, 2", "r.yaml:1:9  a bracket is not closed"),
        ("a: 'b", "r.yaml:1:6  a quotation mark is not closed"),
        ("a: @b", "r.yaml:1:4  text that begins with @ must be quoted"),
        ("a: \x01", "r.yaml  is not valid YAML: unacceptable character #x0001"),
        ('a: "\\ud800"', "r.yaml:1:4  holds bytes or half characters that are not UTF-8 text"),
        (f"a: {'x' * 20_000}", "r.yaml:1:4  a single value is longer than 10000 characters"),
        (f"a: 1 # {'x' * MAX_CHARACTERS}", "r.yaml  is longer than 256 kB, which no recipe is"),
    ],
)
def test_text_that_is_no_plain_recipe_is_refused_before_anything_is_built(told, text, sentence):
    assert told(text)[0].startswith(sentence)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("method: os.system", "r.yaml:1:9"),
        ("method: {name: sslcore.pretrain.methods.moco.MoCo}", "r.yaml:1:16"),
        ("method: {name: 'subprocess:run'}", "r.yaml:1:16"),
        ("method: {name: moco, class_path: os.system}", "r.yaml:1:22"),
        ("method: moco\n_target_: builtins.eval", "r.yaml:2:1"),
        ("method: moco\nbackbone: {name: torchvision.models.resnet18}", "r.yaml:2:18"),
    ],
)
def test_an_import_path_or_callable_is_refused(told, text, place):
    (problem,) = told(text)
    assert problem.startswith(f"{place}  ")
    assert problem.endswith(CODE)


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file_then_of_the_command_line(told):
    text = "epoch: 5\nmethod: {name: moco, temperature: 0}\nbackbone: {name: tiny, stem: huge}\nseed: -1\n"
    assert told(text, ("optimizer.lrr", "1"), ("threads", "x"), ("foo", None)) == [
        "r.yaml:1:1  unknown key 'epoch'; did you mean 'epochs'?",
        "r.yaml:2:35  method.temperature must be above 0, not 0",
        "r.yaml:3:30  backbone.stem must be one of imagenet, small, not 'huge'",
        "r.yaml:4:7  seed must be at least 0, not -1",
        "command line: --optimizer.lrr  unknown setting 'lrr' in optimizer; did you mean '--optimizer.lr'?",
        "command line: --foo  unknown setting 'foo'; there are " + ", ".join(Recipe.model_fields),
        "command line: --threads  threads must be a whole number of at least 0, not 'x'",
    ]


def test_a_recipe_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("method: byol")
    for name, sentence in {
        "mien.yaml": "mien.yaml  does not exist; did you mean 'mine.yaml'?",
        "no/where.yaml": "no/where.yaml  does not exist; nor does the folder no",
        "moco_resnet50_imagnet": "there is no recipe 'moco_resnet50_imagnet'; did you mean 'moco_resnet50_imagenet'?",
        "zzz": "there is no recipe 'zzz'; there are " + ", ".join(shipped()),
        ".": ".  is a folder without a recipe.yaml; to train on the images in it: surnia pretrain folder_cpu "
        "--data.path ., or surnia doctor --data . --write-recipe mine.yaml",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load(name, [], Recipe)
        assert caught.value.problems == (sentence,)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8 text; is it a recipe"):
        load("binary.yaml", [], Recipe)


# --- the command line over the file ----------------------------------------------------------------------------------


def test_options_are_laid_over_the_file(tmp_path):
    text = "method: {name: moco, temperature: 0.1}\nviews: [{count: 2, size: 96}]\nepochs: 7"
    options = [
        ("optimizer.lr", "1e-3"),
        ("views.0.size", "32"),
        ("views.0.scale", "[0.5, 1]"),
        ("batch-size", "64"),
        ("sync_batchnorm", None),
        ("data.path", "a: [b] #c"),
        ("backbone", "resnet18"),
        ("max_steps", "null"),
        ("precision", "16"),
        ("batch_size", "128"),
    ]
    recipe = read(tmp_path, text, *options).recipe
    assert recipe.method.temperature == 0.1
    assert recipe.epochs == 7
    assert recipe.optimizer.lr == 1e-3
    assert recipe.views[0].size == 32
    assert recipe.views[0].scale == (0.5, 1.0)
    assert recipe.batch_size == 128, "the later of two wins"
    assert recipe.sync_batchnorm is True
    assert recipe.data.path == "a: [b] #c", "a path is taken as it is"
    assert recipe.backbone.name == "resnet18"
    assert recipe.max_steps is None
    assert recipe.precision == "16"


def test_an_option_can_count_into_a_default_list(tmp_path):
    recipe = read(tmp_path, "method: simclr", ("views.0.size", "48"), ("views.0.scale.0", "0.5")).recipe
    assert (recipe.views[0].count, recipe.views[0].size, recipe.views[0].scale) == (2, 48, (0.5, 1.0))


@pytest.mark.parametrize("options", [[("method.name", "byol"), ("method.momentum", "0.5")], [("method", "byol")]])
@pytest.mark.parametrize("turned", [False, True])
def test_another_method_starts_from_its_own_defaults(tmp_path, options, turned):
    loaded = read(tmp_path, "method: {name: moco, queue: 512, momentum: 0.9}", *(options[::-1] if turned else options))
    assert loaded.recipe.method.name == "byol"
    assert loaded.recipe.method.momentum == (0.5 if len(options) == 2 else 0.99)
    assert loaded.notes == [
        "note: method is byol instead of the recipe's moco, whose settings (queue, momentum) do not apply"
    ]


def test_naming_the_same_method_keeps_the_files_settings(tmp_path):
    loaded = read(tmp_path, "method: {name: moco, queue: 512}", ("method.name", "moco"))
    assert loaded.recipe.method.queue == 512
    assert not loaded.notes


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("optimizr.lr", "1", "unknown option; did you mean '--optimizer.lr'?"),
        ("lr", "1", "unknown setting 'lr'; did you mean '--optimizer.lr'?"),
        ("views.1.size", "4", "there is no views.1: views is a list and it has 1, counted from 0"),
        ("epochs.x", "4", "epochs is a single value and has no 'x'"),
        ("epochs", None, "needs a value"),
        ("epochs", "[3", "a bracket is not closed"),
        ("epochs", "-1", "epochs must be at least 1, not -1"),
        ("epochs", "", "epochs must be a whole number of at least 1, not ''"),
        (
            "epochs",
            "!!python/name:os.system x",
            "tags (!!python/name:os.system) are not allowed: a recipe holds plain values and loads no code",
        ),
        ("data.path", "\udcff", "is not UTF-8 text"),
        ("views", "[{count: 2, sise: 3}]", "unknown key 'sise' in views.0; did you mean 'size'?"),
        ("method", "bioll", f"method.name must be one of {METHODS}, not 'bioll'; did you mean 'byol'?"),
        ("method.class_path", "os.system", f"unknown setting 'class_path' in method (simclr); {CODE}"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(told, name, value, sentence):
    assert told("method: simclr\nviews: [{count: 2}]", (name, value)) == [f"command line: --{name}  {sentence}"]


def test_a_cross_check_points_at_the_setting_that_broke_it_when_it_can(told):
    assert told("method: moco", ("method.queue", "64")) == [
        "command line: --method.queue  method.queue must hold at least the keys of one optimiser step (256), not 64"
    ]


def test_arguments_are_split_into_options_and_the_rest():
    assert split_options(["a", "--x", "1", "--y=-2", "--z", "--w", "-3", "b"]) == (
        [("x", "1"), ("y", "-2"), ("z", None), ("w", "-3")],
        ["a", "b"],
    )


def test_load_recipe_gives_the_resolved_text(tmp_path):
    recipe, text = load_recipe("folder_cpu", Recipe, ["--seed=3"])
    assert recipe.seed == 3
    (tmp_path / "again.yaml").write_text(text)
    assert load(str(tmp_path / "again.yaml"), [], Recipe).recipe == recipe
    with pytest.raises(ConfigError, match="stray  is not of the form"):
        load_recipe("folder_cpu", Recipe, ["stray"])


# --- numbers and words -----------------------------------------------------------------------------------------------


def test_text_that_looks_like_a_number_is_taken_as_written(tmp_path):
    recipe = read(tmp_path, "method: simclr\nprecision: 32\ndata: {path: 0010}\n").recipe
    assert (recipe.precision, recipe.data.path) == ("32", "0010")


def test_yaml_1_2_scalars():
    source = read_yaml(
        "[1, -2, +3, 0x10, 0o17, 1_000, 1e-3, .5, true, FALSE, ~, no, 2020-01-01, 1:30, -.inf]", name="x"
    )
    assert source.values == [
        1, -2, 3, 16, 15, 1000, 1e-3, 0.5, True, False, None, "no", "2020-01-01", "1:30", -float("inf"),
    ]  # fmt: skip


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(st.characters(blacklist_categories=["Cs"]), max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable, max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(_PLAIN)
def test_what_flow_writes_is_read_back(value):
    assert read_yaml(f"a: {flow(value)}", name="x").values == {"a": value}


_KEYS = st.sampled_from([*Recipe.model_fields, "name", "class_path", "size", "lr", "count", "temperature", "moco"])
_NONSENSE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats()
    | st.sampled_from(["moco", "byol", "os.system", "", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_KEYS, _NONSENSE, max_size=6))
def test_any_nonsense_ends_in_sentences(tmp_path, values):
    text = "".join(f"{key}: {flow(value)}\n" for key, value in values.items())
    try:
        problems = ()
        read(tmp_path, text)
    except ConfigError as error:
        problems = error.problems
    for problem in problems:
        place, _, sentence = problem.partition("  ")
        assert place.startswith(str(tmp_path))
        assert sentence
        assert "Input should" not in sentence
        assert "\n" not in sentence


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("abc:-[]{}&*!?|>'\"%@`#,\t \n\\0123456789.<=~\x00\u2028é"), max_size=60))
def test_any_text_ends_in_values_or_in_one_error(text):
    try:
        problems = ()
        read_yaml(text, name="x")
    except ConfigError as error:
        problems = error.problems
    assert all(problem.startswith("x") for problem in problems)


# --- what ships and what is printed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_is_valid_and_survives_printing(name, tmp_path):
    loaded = load(name, [], Recipe)
    file = tmp_path / "printed.yaml"
    for comments in (True, False):
        file.write_text(dump(loaded.recipe, comments=comments))
        assert load(str(file), [], Recipe).recipe == loaded.recipe
    assert loaded.recipe.method.name in name or name in {"folder_cpu", "demo"}


@pytest.mark.parametrize("method", ["moco", "simclr", "supcon", "byol", "swav", "pcl"])
@pytest.mark.parametrize(
    ("data", "network", "stem", "size"),
    [("cifar10", "resnet18", "small", 32), ("imagenet", "resnet50", "imagenet", 224)],
)
def test_each_method_ships_for_small_and_for_large_images(method, data, network, stem, size):
    recipe = load(f"{method}_{network}_{data}", [], Recipe).recipe
    assert recipe.method.name == method
    assert (recipe.backbone.name, recipe.backbone.stem, recipe.views[0].size) == (network, stem, size)


def test_published_rates_come_out_of_the_scaling():
    rates = {name: load(name, [], Recipe).recipe.learning_rate for name in shipped()}
    assert rates["simclr_resnet50_imagenet"] == pytest.approx(4.8)  # .3 * 4096 / 256
    assert rates["moco_resnet50_imagenet"] == pytest.approx(0.03)
    assert rates["moco_resnet18_cifar10"] == pytest.approx(0.06)  # not scaled in the notebook
    assert rates["simclr_resnet18_cifar10"] == pytest.approx(0.24)  # .06 * 512 / 128


def test_a_printed_recipe_says_what_each_setting_means():
    text = dump(load("folder_cpu", [], Recipe).recipe)
    assert "# Weight" not in text, "only the chosen method's settings"
    assert "# Passes over the images.\nepochs: 30\n" in text
    assert "\n  # Learning rate for a batch of `lr_batch`.\n  lr: 0.3\n" in text
    assert "\n  - # " not in text
    assert "\nviews:\n    # Views of this kind an image.\n  - count: 2\n    # Side in pixels.\n    size: 64\n" in text


def test_every_setting_is_listed_with_type_default_and_meaning():
    text = listing(Recipe)
    assert "  --method.temperature  a number above 0; default 0.2\n      Softmax temperature" in text
    assert "  --views.N.scale  a list of 2, each a number from 0 to 1; default [0.2, 1]" in text
    assert "  --devices  auto or a whole number of at least 1; default auto" in text
    assert listing(Recipe, "optimizer.lr").count("--") == 1
    assert listing(Recipe, "--views.0.size") == listing(Recipe, "views.N.size")
    with pytest.raises(ValueError, match="there is no setting 'optimizr'; did you mean 'optimizer'"):
        listing(Recipe, "optimizr")
    lines = text.splitlines()
    unexplained = [
        line
        for line, after in zip(lines, [*lines[1:], ""])
        if line.startswith("  --") and not after.startswith("      ") and ".name " not in line
    ]
    assert not unexplained


# --- any schema ------------------------------------------------------------------------------------------------------


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    name: Literal["a"] = "a"
    weight: float = 1.0
    """How much."""


class Other(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Literal["b"] = "b"
    depth: int


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    parts: list[Annotated[Part | Other, Field(discriminator="name")]] = []
    limit: Annotated[int, Field(gt=2)] | None = None


def test_other_schemas_are_read_alike(tmp_path):
    file = tmp_path / "w.yaml"
    file.write_text("parts: [{name: a}, {name: b, depth: 3}]\nlimit: 5")
    loaded = load(str(file), [("parts.1.depth", "4")], Whole)
    assert loaded.recipe.parts == [Part(), Other(depth=4)]
    file.write_text("parts: [{name: c}, {name: b}, {name: b, depht: 1, depth: 2}]\nlimit: 1")
    with pytest.raises(ConfigError) as caught:
        load(str(file), [], Whole)
    assert [problem.removeprefix(f"{file}:") for problem in caught.value.problems] == [
        "1:16  parts.0.name must be one of a, b, not 'c'",
        "1:20  parts.1.depth is missing: a whole number",
        "1:41  unknown key 'depht' in parts.2 (b); did you mean 'depth'?",
        "2:8  limit must be a whole number above 2 or null, not 1",
    ]


def test_a_recipe_goes_through_json_unchanged():
    recipe = load("swav_resnet50_imagenet", [], Recipe).recipe
    assert Recipe.model_validate(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_a_shipped_name_means_what_is_shipped_whatever_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(here := tmp_path)
    (here / "demo").mkdir()
    (here / "demo" / "recipe.yaml").write_text("method: byol\n")
    (here / "moco_resnet18_cifar10").write_text("no recipe")
    (here / "moco_resnet18_cifar10.yaml").write_text("method: byol\n")
    assert load("demo", [], Recipe).source.where(("method",)).startswith("demo.yaml:")
    assert load("moco_resnet18_cifar10", [], Recipe).recipe.method.name == "moco"
    for path in ("./demo", "demo/", str(here / "demo"), "demo/recipe.yaml", "moco_resnet18_cifar10.yaml"):
        assert load(path, [], Recipe).recipe.method.name == "byol", path
