import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import pytest

from apps import cli, commands, launch
from apps.launch_detect import DETECT
from apps.launch_pretrain import PRETRAIN
from apps.recipe_files import shipped
from apps.recipes import load
from sslcore.errors import CheckpointError, ConfigError, DataError, LostProcess, RunLocked
from sslcore.pretrain.recipe import DataSettings, Recipe

HEAVY = ("torch", "torchvision", "pytorch_lightning", "numpy", "PIL", "scipy", "sklearn", "matplotlib")


@pytest.fixture
def surnia(tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder; gives code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        code = cli.main(list(words))
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def stand_in(monkeypatch, module, **functions):
    """A module of the applications replaced by functions that only note how they were called."""
    fake = types.ModuleType(f"apps.{module}")
    calls = []
    for name, result in functions.items():

        def note(*args, result=result, **keywords):
            calls.append((args, keywords))
            if isinstance(result, BaseException):
                raise result
            return result

        setattr(fake, name, note)
    monkeypatch.setitem(sys.modules, f"apps.{module}", fake)
    monkeypatch.setattr(sys.modules["apps"], module, fake, raising=False)
    return calls


@pytest.fixture
def trained(monkeypatch):
    """Calls of `apps.pretrain.run`."""
    return stand_in(monkeypatch, "pretrain", run=0)


def imported(*words, expect, folder):
    """Modules that a fresh interpreter has loaded after a command line."""
    script = (
        "import sys; from apps.cli import main; code = main(sys.argv[1:]);"
        "print('\\n@' + ' '.join(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=folder, timeout=60, check=False
    )
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return set(done.stdout.rpartition("@")[2].split())


# --- nothing heavy before it is needed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["pretrian"],
        ["evaluate", "knn", "--help"],
        ["export", "--to", "x"],
        ["detect", "--help"],
        ["detect", "predict", "--help"],
        ["detect", "unknowns", "--out", "x"],
    ],
)
def test_help_and_mistakes_load_only_the_standard_library(words, tmp_path):
    modules = imported(*words, expect=0 if "--help" in words else 2, folder=tmp_path)
    assert not modules & {*HEAVY, "pydantic", "ruamel.yaml", "rich"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["pretrain", "--help"], 0),
        (["pretrain", "--help-fields"], 0),
        (["pretrain", "folder_cpu", "--print-config"], 0),
        (["pretrain", "folder_cpu", "--epoch", "3"], 2),
        (["pretrain", "folder_cpu"], 2),
        (["pretrain", "bad.yaml"], 2),
        (["recipes"], 0),
        (["detect", "train", "--help"], 0),
        (["detect", "train", "--help-fields"], 0),
        (["detect", "train", "openscenes_small", "--print-config"], 0),
        (["detect", "train", "openscenes_small", "--network.nmae", "tiny"], 2),
        (["detect", "train", "ore_resnet50_m_owodb"], 2),
        (["detect", "train", "bad.yaml"], 2),
    ],
)
def test_a_wrong_recipe_is_told_without_torch(words, code, tmp_path):
    (tmp_path / "bad.yaml").write_text("method: {name: os.system, x: !!python/name:antigravity y}\n")
    modules = imported(*words, expect=code, folder=tmp_path)
    assert not modules & {*HEAVY, "antigravity"}


def test_a_hostile_recipe_imports_and_executes_nothing(tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    for text in (
        "method: !!python/object/apply:evil.run []",
        "method: {name: evil.run}",
        "method: {name: moco, class_path: evil.run}",
        "evil: {_target_: evil}",
        "method: moco\nbackbone: {name: 'evil:run'}",
    ):
        (tmp_path / "r.yaml").write_text(text)
        assert "evil" not in imported("pretrain", "r.yaml", expect=2, folder=tmp_path)
    assert not marker.exists()


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("pretrian", ["command line: unknown command 'pretrian'; did you mean 'pretrain'?"]),
        ("zzz", [f"command line: unknown command 'zzz'; there are {', '.join(cli.SURNIA.commands)}"]),
        ("--versoin", ["command line: unknown option '--versoin'; did you mean '--version'?"]),
        ("evaluate kn", ["command line: unknown evaluation 'kn'; did you mean 'knn'?"]),
        ("evaluate zzz", ["command line: unknown evaluation 'zzz'; there are knn, linear and finetune"]),
        ("evaluate knn --dta x", ["command line: unknown option --dta; did you mean '--data'?"]),
        # abbreviations are off
        (
            "evaluate knn pixels --data . --neigh 3",
            ["command line: unknown option --neigh; did you mean '--neighbours'?"],
        ),
        (
            "evaluate knn --batch-size 0 --temperature x --kind mnist --device tpu",
            [
                f"command line: BACKBONE is missing: {commands.BACKBONE}",
                "command line: --data is missing: the images",
                f"command line: --kind  must be one of {', '.join(commands.KINDS)}, not 'mnist'; "
                "did you mean 'fashion_mnist'?",
                "command line: --batch-size  must be a whole number of at least 1, not '0'",
                "command line: --device  must be auto, cpu, cuda, cuda:N or mps, not 'tpu'",
                "command line: --temperature  must be a number above 0, not 'x'",
            ],
        ),
        (
            "evaluate finetune pixels --data . --labels 0.1 0 2 nan",
            [f"command line: --labels  must be a number above 0 and at most 1, not '{x}'" for x in ("0", "2", "nan")],
        ),
        ("evaluate linear pixels --data nowhere", ["command line: --data  there is nothing at 'nowhere'"]),
        ("evaluate linear pixels . --data .", ["command line: unexpected '.'"]),
        ("evaluate linear pixels --data . --lr -1", ["command line: --lr  must be a number above 0, not '-1'"]),
        ("evaluate linear pixels --data . --lr", ["command line: --lr  needs a value"]),
        ("embed pixels --data . --out x.txt", ["command line: --out  must end in .npz or .safetensors, not 'x.txt'"]),
        (
            "export --to torchvison",
            [
                "command line: RUN is missing: a run directory or a checkpoint in it",
                "command line: --out is missing: the file to write",
                "command line: --to  must be one of torchvision, detectron2, not 'torchvison'; "
                "did you mean 'torchvision'?",
            ],
        ),
        ("doctor --check 0", ["command line: --check  must be a whole number of at least 1, or all, not '0'"]),
        (
            "doctor --write-recipe x",
            ["command line: --write-recipe  needs --data DIR, the folder that the recipe is for"],
        ),
        ("demo --steps none", ["command line: --steps  must be a whole number of at least 1, not 'none'"]),
        ("recipes folder_cpi", ["there is no recipe 'folder_cpi'; did you mean 'folder_cpu'?"]),
        ("pretrain", [f"command line: RECIPE is missing: a YAML file, or one of {', '.join(shipped())}"]),
        ("pretrain --dry-rum folder_cpu", ["command line: --dry-rum  unknown option; did you mean '--dry-run'?"]),
        ("pretrain folder_cpu more", ["command line: unexpected 'more'"]),
        ("pretrain folder_cpu --run", ["command line: --run  needs a value"]),
        ("pretrain folder_cpu --dry-run=yes", ["command line: --dry-run  takes no value"]),
        (
            "pretrain folder_cpu --help-fields metod",
            ["command line: --help-fields  there is no setting 'metod'; did you mean 'method'?"],
        ),
        (
            "pretrain folder_cpu",
            ["folder_cpu.yaml:8:7  data.path is missing: say where the images are, here or with --data.path DIR"],
        ),
        (
            "pretrain folder_cpu --data.path picturs --backbone.weights nowhere/x.pth",
            [
                "command line: --data.path  data.path: there is nothing at 'picturs'; did you mean 'pictures'?",
                "command line: --backbone.weights  backbone.weights: there is nothing at 'nowhere/x.pth'; "
                "nor is there a folder 'nowhere'",
            ],
        ),
        (
            "pretrain folder_cpu --data.path pictures.zip",
            ["command line: --data.path  data.path: 'pictures.zip' is a file, not a folder; unpack archives"],
        ),
        (
            "pretrain folder_cpu --data.path pictures --run taken",
            [
                "command line: --run  taken exists already and is never overwritten: "
                "choose another name, or continue that run with --resume taken"
            ],
        ),
        ("pretrain --resume takn", ["command line: --resume  there is no run directory 'takn'; did you mean 'taken'?"]),
        (
            "pretrain --resume taken --run other",
            ["command line: --run  names other, but --resume names taken; give one of them"],
        ),
        (
            "pretrain folder_cpu --resume --data.path pictures",
            [
                "command line: --resume  there is no run runs/folder_cpu-simclr-1 to continue; give the directory of "
                "one, surnia pretrain --resume RUN (in runs none is unfinished)"
            ],
        ),
        (
            "pretrain --resume",
            [
                "command line: --resume  names no run: give the directory of one, surnia pretrain --resume RUN (in "
                "runs none is unfinished)"
            ],
        ),
        ("pretrain --resume pictures", ["pictures/recipe.yaml  does not exist"]),
    ],
)
def test_a_mistake_is_told_in_sentences_on_stderr_with_code_2(surnia, tmp_path, line, sentences):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures.zip").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run.json").touch()
    code, out, err = surnia(*line.split())
    assert err.splitlines() == sentences
    assert out == ""
    assert code == 2


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (DataError("no images; add some"), 3, "no images; add some"),
        (CheckpointError("damaged"), 4, "damaged"),
        (RunLocked("locked by 12"), 6, "locked by 12"),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (MemoryError(), 1, "out of memory: try a smaller --batch-size"),
        (
            ZeroDivisionError("by 0\nmore"),
            1,
            "unexpected ZeroDivisionError: by 0 (run again with --debug for the traceback)",
        ),
        (
            ModuleNotFoundError("No module named 'sklearn.cluster'", name="sklearn.cluster"),
            1,
            "the package scikit-learn is not installed: pip install scikit-learn, then run the command again",
        ),
        (
            ModuleNotFoundError("No module named 'pycocotools'", name="pycocotools"),
            1,
            "the package pycocotools is not installed: pip install pycocotools,",
        ),
        (
            ModuleNotFoundError("No module named 'sslcore.gone'", name="sslcore.gone"),
            1,
            "unexpected ModuleNotFoundError: No module named 'sslcore.gone' (run again with --debug",
        ),
        (AssertionError(), 1, "unexpected AssertionError: no further words (run again with --debug for the traceback)"),
    ],
)
def test_an_error_becomes_one_sentence_and_its_code(surnia, monkeypatch, error, code, sentence):
    stand_in(monkeypatch, "evaluate", knn=error, linear=0, finetune=0)
    got, _, err = surnia("evaluate", "knn", "pixels", "--data", ".")
    assert got == code
    assert len(err.splitlines()) == 1
    assert err.startswith(sentence)


@pytest.mark.parametrize(
    "command",
    ["pretrain", "evaluate knn", "embed", "export", "demo", "", "detect train", "detect predict", "detect unknowns",
     "detect evaluate"],
)  # fmt: skip
def test_out_of_memory_names_options_that_the_command_has(surnia, command):
    said = cli.tell(MemoryError(), command.removesuffix(" knn"))
    code, listed, _ = surnia(*command.split(), "--help-fields" if command in {"pretrain", "detect train"} else "--help")
    assert code == 0
    assert said.startswith("out of memory: try ")
    for option in re.findall(r"--([\w.-]+)", said):
        assert option in listed
    assert ("--batch" in said) == (command not in {"export", "demo", ""})


def test_a_full_disk_is_a_sentence_whoever_writes():
    """Also where another package writes a file of its own, as TensorBoard does."""
    said = cli.tell(OSError(errno.ENOSPC, "No space left on device"))
    assert said.startswith("no space left on the disk: free some") and "unexpected" not in said
    assert cli.tell(OSError(errno.EIO, "Input/output error")).startswith("unexpected OSError")


@pytest.mark.parametrize("place", [0, 2, 5])
def test_debug_shows_the_traceback_wherever_it_stands(surnia, monkeypatch, place):
    stand_in(monkeypatch, "evaluate", knn=DataError("no images"), linear=0, finetune=0)
    words = ["evaluate", "knn", "pixels", "--data", "."]
    code, _, err = surnia(*words[:place], "--debug", *words[place:])
    assert code == 3
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "no images"


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m apps.cli pretrain --help-fields | head -n 1"
    root = os.path.dirname(os.path.dirname(cli.__file__))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=root, timeout=60, check=False)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_names_every_command(surnia):
    code, out, err = surnia("--help")
    assert (code, err) == (0, "")
    for name in ("pretrain", "evaluate", "embed", "export", "doctor", "demo", "recipes"):
        assert f"  {name}" in out
    assert surnia() == (0, out, "")


@pytest.mark.parametrize("name", cli.SURNIA.commands)
def test_every_command_has_help(surnia, name):
    code, out, err = surnia(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: surnia {name}")


def test_version(surnia):
    code, out, _ = surnia("--version")
    assert code == 0
    assert out.startswith("surnia 0.")


def test_the_kinds_of_data_are_those_of_the_schema():
    assert set(commands.KINDS) == set(DataSettings.model_fields["kind"].annotation.__args__)


@pytest.mark.parametrize("training", [PRETRAIN, DETECT])
def test_no_setting_has_the_name_of_an_option(training):
    settings = {f"--{name.replace('_', '-')}" for name in training.schema.model_fields}
    assert not settings & set(launch.options(training).names)


@pytest.mark.parametrize(
    ("training", "recipes"), [(PRETRAIN, ["folder_cpu"]), (DETECT, ["openscenes_small", "ore_resnet50_m_owodb"])]
)
def test_settings_that_may_change_exist(training, recipes):
    loaded = [load(name, [], training.schema, folder=training.folder).recipe for name in recipes]
    assert {key for recipe in loaded for key in launch.flat(recipe.as_dict())} >= training.may_change


# --- what the commands are given -------------------------------------------------------------------------------------


def test_evaluate_gives_checked_options(surnia, monkeypatch, tmp_path):
    calls = stand_in(monkeypatch, "evaluate", knn=0, linear=0, finetune=7)
    line = "evaluate finetune runs/x --data . --labels 0.5 1 --epochs 3 --lr 0.1 --seed 4 --out r.json --device cuda:1"
    assert surnia(*line.split())[0] == 7
    ((args,), _), *_ = calls
    assert (args.backbone, str(args.data), args.kind, args.batch_size) == ("runs/x", ".", "auto", 256)
    assert (args.labels, args.epochs, args.lr, args.seed, str(args.out)) == ([0.5, 1.0], 3, 0.1, 4, "r.json")
    assert args.device == "cuda:1"
    surnia("evaluate", "knn", "pixels", "--data", ".")
    args = calls[-1][0][0]
    assert (args.neighbours, args.temperature, args.out) == (20, 0.07, None)


def test_embed_and_export(surnia, monkeypatch, tmp_path):
    embedded, exported = stand_in(monkeypatch, "embed", run=0), stand_in(monkeypatch, "export", run=0)
    surnia("embed", "torchvision:resnet18", "--data", ".", "--out", "f.npz")
    surnia("export", ".", "--to", "detectron2", "--out", "b.pkl")
    assert (embedded[0][0][0].backbone, str(embedded[0][0][0].out)) == ("torchvision:resnet18", "f.npz")
    assert (str(exported[0][0][0].run), exported[0][0][0].to) == (".", "detectron2")


def test_demo_takes_the_next_free_name(surnia, monkeypatch, tmp_path):
    calls = stand_in(monkeypatch, "demo", run=0)
    (tmp_path / "runs" / "demo-3").mkdir(parents=True)
    surnia("demo", "--steps", "9")
    (run_dir,), keywords = calls[0]
    assert str(run_dir) == "runs/demo-4"
    command = ["surnia", "demo", "--steps", "9"]
    assert keywords == {"command": command, "seed": 0, "steps": 9, "threads": None, "resume": False}


def test_an_interrupted_demo_goes_on_with_what_it_was_begun_with(surnia, monkeypatch, tmp_path):
    calls = stand_in(monkeypatch, "demo", run=0)
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    surnia("demo", "--resume", "runs/demo-1")
    (run_dir,), keywords = calls[0]
    assert str(run_dir) == "runs/demo-1"
    assert keywords["resume"]
    code, _, said = surnia("demo", "--resume", "runs/demo-1", "--seed", "3")
    assert code == 2
    assert said == "command line: --seed  was settled when runs/demo-1 was begun; leave it out\n"


def test_pretrain_gets_the_recipe_and_a_numbered_directory(surnia, trained, tmp_path):
    (tmp_path / "pictures").mkdir()
    words = ["pretrain", "folder_cpu", "--data.path", "pictures", "--optimizer.lr=0.1", "--views.0.size", "32"]
    assert surnia(*words) == (0, "", "")
    (recipe,), given = trained[0]
    assert (recipe.optimizer.lr, recipe.views[0].size) == (0.1, 32)
    assert str(given["run_dir"]) == "runs/folder_cpu-simclr-1"
    assert given["command"] == ["surnia", *words]
    assert (given["resume"], given["dry_run"]) == (False, False)
    (tmp_path / "resolved.yaml").write_text(given["recipe_text"])
    assert load("resolved.yaml", [], Recipe).recipe == recipe

    (tmp_path / "runs" / "folder_cpu-simclr-1").mkdir(parents=True)
    (tmp_path / "runs" / "folder_cpu-simclr-7").mkdir()
    surnia(*words)
    assert str(trained[1][1]["run_dir"]) == "runs/folder_cpu-simclr-8"
    surnia(*words, "--method", "byol", "--dry-run")
    assert str(trained[2][1]["run_dir"]) == "runs/folder_cpu-byol-1"
    assert trained[2][1]["dry_run"] is True


def test_another_method_is_noted_on_stderr(surnia, trained, tmp_path):
    (tmp_path / "pictures").mkdir()
    code, out, err = surnia("pretrain", "folder_cpu", "--data.path", "pictures", "--method", "byol")
    assert (code, out) == (0, "")
    assert err.startswith("note: method is byol instead of the recipe's simclr")


def test_only_the_first_of_several_processes_looks_after_the_directory(surnia, trained, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run.json").touch()
    words = ["pretrain", "folder_cpu", "--data.path", ".", "--run", "taken"]
    assert surnia(*words)[0] == 2
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert surnia(*words) == (0, "", "")


def test_print_config_prints_a_recipe(surnia, trained, tmp_path):
    code, out, _ = surnia("pretrain", "folder_cpu", "--print-config", "--epochs", "3")
    assert code == 0
    (tmp_path / "r.yaml").write_text(out)
    assert load("r.yaml", [], Recipe).recipe.epochs == 3
    assert not trained


def test_help_fields_lists_a_part(surnia):
    _, out, _ = surnia("pretrain", "--help-fields", "optimizer")
    assert "  --optimizer.lr  a number above 0; default 0.03" in out
    assert "--epochs" not in out


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "words", "sentence"),
    [
        ([], "", "Interrupted before the run began: nothing was kept."),
        ([], "--dry-run", "Interrupted: a dry run writes nothing, so nothing was kept."),
        (
            ["recipe.yaml"],
            "",
            "Interrupted before the first checkpoint: a run keeps its recipe alone; begin it anew with: surnia "
            "pretrain --resume 'a run'",
        ),
        (
            ["recipe.yaml", "tasks/1/train/checkpoints/step-00000003/manifest.json"],
            "",
            "Interrupted: a run keeps its last checkpoint; go on from there with: surnia pretrain --resume 'a run'",
        ),
    ],
)
def test_an_interrupted_training_says_what_is_left_and_how_to_go_on(
    surnia, monkeypatch, tmp_path, left, words, sentence
):
    (tmp_path / "pictures").mkdir()

    def interrupted(recipe, *, run_dir, **_):
        for name in left:
            (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (run_dir / name).touch()
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it was to end here")

    monkeypatch.setattr("apps.pretrain.run", interrupted)
    line = ["pretrain", "folder_cpu", "--data.path", "pictures", "--run", "a run", *words.split()]
    assert surnia(*line) == (130, "", sentence + "\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_the_first_of_several_processes_says_so(surnia, monkeypatch, tmp_path):
    (tmp_path / "pictures").mkdir()
    stand_in(monkeypatch, "pretrain", run=KeyboardInterrupt())
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert surnia("pretrain", "folder_cpu", "--data.path", "pictures") == (130, "", "")


def test_a_process_that_is_lost_to_several_is_told_by_the_first(surnia, monkeypatch, tmp_path):
    (tmp_path / "pictures").mkdir()
    stand_in(monkeypatch, "pretrain", run=LostProcess("another process of this run ended"))
    line = ["pretrain", "folder_cpu", "--data.path", "pictures"]
    assert surnia(*line) == (1, "", "another process of this run ended\n")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert surnia(*line) == (1, "", "")


def test_ctrl_c_of_which_a_library_made_another_error_is_still_one(surnia, monkeypatch, tmp_path):
    """As numpy does amid its import."""
    (tmp_path / "pictures").mkdir()

    def halfway(*_, ctrl_c=True, **__):
        try:
            if ctrl_c:
                os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            pass
        raise AttributeError("no minimum")

    line = ["pretrain", "folder_cpu", "--data.path", "pictures"]
    monkeypatch.setattr("apps.pretrain.run", halfway)
    assert surnia(*line) == (130, "", "Interrupted before the run began: nothing was kept.\n")
    monkeypatch.setattr("apps.pretrain.run", lambda *_, **__: halfway(ctrl_c=False))
    code, _, err = surnia(*line)
    assert code == 1 and err.startswith("unexpected AttributeError: no minimum")


# --- resuming --------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path, surnia, trained):
    """A run directory as training leaves it."""
    (tmp_path / "pictures").mkdir()
    surnia("pretrain", "folder_cpu", "--data.path", "pictures")
    given = trained.pop()[1]
    run_dir = tmp_path / given["run_dir"]
    run_dir.mkdir(parents=True)
    (run_dir / "recipe.yaml").write_text(given["recipe_text"])
    return "runs/folder_cpu-simclr-1"


@pytest.mark.parametrize(
    "line",
    [
        "--resume {run}",
        "folder_cpu --data.path pictures --resume",
        "folder_cpu --data.path pictures --resume {run}",
        "folder_cpu --data.path pictures --run {run} --resume",
        "--resume folder_cpu --data.path pictures",
        "--run {run} --resume",
        "--resume {run} --threads 1 --checkpoint_every 10",
    ],
)
def test_every_way_to_continue_a_run(surnia, trained, begun, line):
    code, _, err = surnia("pretrain", *line.format(run=begun).split())
    assert (code, err) == (0, "")
    (recipe,), given = trained[0]
    assert (str(given["run_dir"]), given["resume"]) == (begun, True)
    assert recipe.data.path == "pictures"


def test_a_continued_run_keeps_what_determines_its_weights(surnia, trained, begun):
    code, _, err = surnia("pretrain", "--resume", begun, "--epochs", "99", "--views.0.size", "32", "--threads", "1")
    assert code == 2
    assert err.splitlines() == [
        f"command line: --views.0.size  views.0.size is 32, but {begun} was begun with 64: leave it as it was, or "
        "begin a new run (without --resume)",
        f"command line: --epochs  epochs is 99, but {begun} was begun with 30: leave it as it was, or begin a new run "
        "(without --resume)",
    ]
    assert not trained


def test_a_recipe_beside_a_run_that_was_begun_with_another(surnia, trained, begun, tmp_path):
    """Nobody can change a shipped recipe: the remedy is to leave it out. One option is of the command line, though."""
    line = ["folder_cpu", "--data.path", "pictures", "--resume", begun]
    assert surnia("pretrain", *line)[0] == 0  # it is the same as the run's
    recipe = tmp_path / begun / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 30", "epochs: 7").replace("batch_size: 256", "batch_size: 8"))
    code, _, err = surnia("pretrain", *line, "--seed", "5")
    assert code == 2
    option, of_recipe = err.splitlines()
    assert option == (
        f"command line: --seed  seed is 5, but {begun} was begun with 0: leave it as it was, or begin a new run "
        "(without --resume)"
    )
    assert of_recipe.startswith("folder_cpu.yaml:")
    assert of_recipe.endswith(
        f"  epochs is 30, but {begun} was begun with 7 (and 1 more of its settings differ): leave the recipe out, as "
        f"the run has its own (surnia pretrain --resume {begun}), or begin a new run (without --resume)"
    )
    trained.clear()
    assert surnia("pretrain", "--resume", begun)[0] == 0  # the remedy works
    ((recipe,), _) = trained[0]
    assert (recipe.epochs, recipe.batch_size) == (7, 8)


def test_resume_without_a_run_names_those_that_there_are(surnia, trained, begun, tmp_path):
    code, _, err = surnia("pretrain", "--resume")
    assert code == 2
    assert err == (
        f"command line: --resume  names no run: give the directory of one, surnia pretrain --resume {begun}\n"
    )
    text = (tmp_path / begun / "recipe.yaml").read_text()
    for number in range(2, 8):
        run = tmp_path / "runs" / f"r-{number}"
        run.mkdir()
        (run / "recipe.yaml").write_text(text if number != 5 else "unknowns: {}\n")  # r-5 is a detector's
        facts = {"status": "finished" if number == 6 else "stopped", "command": ["surnia", "pretrain"]}
        (run / "run.json").write_text(json.dumps(facts))
        os.utime(run / "recipe.yaml", (2e9 + number, 2e9 + number))
    demo = shutil.copytree(run, tmp_path / "runs" / "demo-1")  # `surnia demo --resume` continues it, and all else in it
    (demo / "run.json").write_text(json.dumps(facts | {"command": ["surnia", "demo"]}))
    _, _, err = surnia("pretrain", "--resume")
    assert err.endswith("surnia pretrain --resume runs/r-7; also unfinished: runs/r-4, runs/r-3, runs/r-2 and 1 more\n")
    _, _, err = surnia("pretrain", "--resume", "--data.path", "pictures")
    assert "names no run" in err
    _, _, err = surnia("pretrain", "--resume", "--optimizr.lr", "1")
    assert "did you mean '--optimizer.lr'" in err
    assert not trained


def test_config_errors_reach_python_callers_with_every_problem():
    with pytest.raises(ConfigError) as caught:
        cli.run(["evaluate", "knn"])
    assert len(caught.value.problems) == 2
