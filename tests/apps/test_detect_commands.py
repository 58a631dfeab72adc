"""What `surnia detect` says of a command line before anything is trained or looked at."""

import sys
import types

import pytest
import yaml
from support.drawn import TASKS, draw_set

from apps import cli, detect
from apps.recipe_files import shipped
from apps.recipes import load
from detection.training.recipe import DetectionRecipe

RECIPES = ", ".join(shipped("detection"))


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


@pytest.fixture
def calls(monkeypatch):
    """Calls of the modules that do the work, which are replaced: (module, arguments, keywords)."""
    found = []
    for name in ("train", "evaluate", "predict", "unknowns", "learn"):
        fake = types.ModuleType(f"apps.detect_{name}")
        fake.run = lambda *args, name=name, **keywords: found.append((name, args, keywords)) or 0
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr(sys.modules["apps"], f"detect_{name}", fake, raising=False)
    return found


def begun(folder, recipe="unknowns: {per_image: 2}\n"):
    """A run directory as training leaves it, without what was trained."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "recipe.yaml").write_text(recipe)
    return folder


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_names_every_command(surnia):
    code, out, err = surnia("detect", "--help")
    assert (code, err) == (0, "")
    for name in ("data", "train", "evaluate", "predict", "unknowns", "learn", "score"):
        assert f"  {name}" in out
    assert surnia("detect") == (0, out, "")


@pytest.mark.parametrize("name", detect.detect.commands)
def test_every_command_has_help(surnia, name):
    code, out, err = surnia("detect", name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: surnia detect {name}")


def test_help_of_a_data_set(surnia):
    code, out, _ = surnia("detect", "data", "openscenes", "--help")
    assert code == 0
    assert out.startswith("usage: surnia detect data openscenes")


def test_help_fields_lists_settings(surnia):
    code, out, _ = surnia("detect", "train", "--help-fields", "unknowns")
    assert code == 0
    assert "  --unknowns.guard  a number from 0 to 1; default 0.1" in out
    assert "--clustering.loss" not in out


def test_recipes_are_listed_by_command_and_printed_by_name(surnia):
    _, out, _ = surnia("recipes")
    lines = out.splitlines()
    assert lines.index("surnia pretrain:") < lines.index("  folder_cpu") < lines.index("surnia detect train:")
    assert lines.index("surnia detect train:") < lines.index("  openscenes_small")
    _, out, _ = surnia("recipes", "openscenes_small")
    assert yaml.safe_load(out)["data"]["name"] == "openscenes"


def test_a_name_that_two_commands_have_recipes_of_is_no_riddle(surnia):
    code, out, err = surnia("recipes", "demo")
    assert code == 0 and "method" in yaml.safe_load(out)
    others = [("detect", "detection/demo"), ("control", "control/demo")]
    notes = [f"note: surnia {app} train has one of this name, too: surnia recipes {name}\n" for app, name in others]
    assert err == "".join(notes)
    code, out, err = surnia("recipes", "detection/demo")
    assert (code, err) == (0, "") and "network" in yaml.safe_load(out)


# --- shipped recipes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped("detection"))
def test_shipped_recipes_are_read_and_fit_their_networks(name):
    loaded = load(name, [], DetectionRecipe, folder="detection")
    assert not loaded.notes
    network = loaded.recipe.network
    levels = 3 if network.name == "tiny" else 4
    assert len(network.anchors) in (levels, levels + 1), "one size for each level of the pyramid"


def test_the_recipe_of_ore_is_the_one_published():
    recipe = load("ore_resnet50_m_owodb", [], DetectionRecipe, folder="detection").recipe
    assert (recipe.first.steps, recipe.first.lr, recipe.batch_size) == (18000, 0.01, 8)
    assert [round(share * 18000, -2) for share in recipe.first.milestones] == [12000, 16000]
    assert (recipe.unknowns.compat, recipe.clustering.compat) == ("ore", "ore")
    assert (recipe.clustering.margin, recipe.clustering.store, recipe.clustering.refresh) == (10, 20, 3000)
    assert round(recipe.clustering.start * 18000, -1) == 1000
    assert recipe.decision.fit == "oracle"
    assert recipe.replay.per_class == 50


@pytest.mark.parametrize(
    "name",
    ["openscenes_small", "openscenes_large", *(f"openworld_resnet50_{b}" for b in ("m_owodb", "s_owodb", "voc_coco"))],
)
def test_our_recipes_use_no_label_of_a_future_class(name):
    recipe = load(name, [], DetectionRecipe, folder="detection").recipe
    assert recipe.decision.fit == "known"
    assert recipe.labels == "task"
    assert recipe.unknowns.compat is recipe.clustering.compat is None


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("detect trian", ["command line: unknown command 'trian' of surnia detect; did you mean 'train'?"]),
        (
            "detect zzz",
            [f"command line: unknown command 'zzz' of surnia detect; there are {', '.join(detect.detect.commands)}"],
        ),
        ("detec", ["command line: unknown command 'detec'; did you mean 'detect'?"]),
        ("detect data openscene", ["command line: unknown data set 'openscene'; did you mean 'openscenes'?"]),
        ("detect data zzz", ["command line: unknown data set 'zzz'; there are openscenes, owod"]),
        ("detect data openscenes --size huge", ["command line: --size  must be one of tiny, small, large, not 'huge'"]),
        # train
        ("detect train", [f"command line: RECIPE is missing: a YAML file, or one of {RECIPES}"]),
        ("detect train openscenes_smal", ["there is no recipe 'openscenes_smal'; did you mean 'openscenes_small'?"]),
        ("detect train folder_cpu", ["'folder_cpu' is a recipe of another command: surnia pretrain folder_cpu"]),
        (
            "pretrain openscenes_small",
            ["'openscenes_small' is a recipe of another command: surnia detect train openscenes_small"],
        ),
        (
            "detect train openscenes_small --clustering.los hinge",
            ["command line: --clustering.los  unknown setting 'los' in clustering; did you mean '--clustering.loss'?"],
        ),
        (
            "detect train openscenes_small --clustering.loss hing --network resnet18",
            [
                "command line: --network  network.name must be one of tiny, resnet18_fpn, resnet50_fpn, resnet50_c4, "
                "not 'resnet18'; did you mean 'resnet18_fpn'?",
                "command line: --clustering.loss  clustering.loss must be one of none, hinge, infonce, not 'hing'; did "
                "you mean 'hinge'?",
            ],
        ),
        (
            "detect train openscenes_small --data.path scene",
            ["command line: --data.path  data.path: there is nothing at 'scene'; did you mean 'scenes'?"],
        ),
        (
            "detect train openscenes_small --data.sprites file.txt --network.weights torchvision:resnet18",
            [
                "command line: --data.sprites  data.sprites: 'file.txt' is a file, not a folder",
                "command line: --network.weights  network.weights: 'torchvision:resnet18' names no file, and nothing "
                "is downloaded: write torchvision:resnet18=FILE",
            ],
        ),
        (
            "detect train openscenes_small --network.weights torchvision:resnet18=nowhere.pth",
            [
                "command line: --network.weights  network.weights: there is nothing at 'nowhere.pth'; pretrain a "
                "backbone (surnia pretrain), give another with --network.weights, or null for random weights"
            ],
        ),
        (
            "detect train openscenes_small_detectron2 --network.weights detectron2:R-50.pkl",
            [
                "command line: --network.weights  network.weights: there is nothing at 'R-50.pkl'; detectron2's "
                "MODEL_ZOO.md says where its files are (nothing is downloaded here), and --network.weights null begins "
                "with random weights"
            ],
        ),
        (
            "detect train openscenes_small --run taken",
            [
                "command line: --run  taken exists already and is never overwritten: choose another name, or continue "
                "that run with --resume taken"
            ],
        ),
        (
            "detect train --resume takn",
            ["command line: --resume  there is no run directory 'takn'; did you mean 'taken'?"],
        ),
        (
            "detect train --resume pretrained",
            [
                "command line: --resume  pretrained is not a run of surnia detect train; continue it with surnia "
                "pretrain --resume pretrained"
            ],
        ),
        (
            "pretrain --resume taken",
            [
                "command line: --resume  taken is not a run of surnia pretrain; continue it with surnia detect train "
                "--resume taken"
            ],
        ),
        (
            "detect train scenes",
            [
                "scenes  is a folder without a recipe.yaml; to train on the annotated images in it: surnia doctor "
                "--data scenes --tasks TASKS.yaml --write-recipe mine.yaml"
            ],
        ),
        # evaluate
        (
            "detect evaluate --mode stric --task 0",
            [
                "command line: RUN is missing: a run of `surnia detect train`",
                "command line: --mode  must be one of strict, ore, not 'stric'; did you mean 'strict'?",
                "command line: --task  must be a whole number of at least 1, not '0'",
            ],
        ),
        (
            "detect evaluate taken --images scenes --json file.txt",
            [
                "command line: --images  belongs to --data, which is not given",
                "command line: --json  file.txt exists already; give another name, or add --overwrite",
            ],
        ),
        ("detect evaluate taken --json scenes", ["command line: --json  scenes is a folder; give the name of a file"]),
        # predict and unknowns
        (
            "detect predict",
            [
                f"command line: RUN is missing: {detect.MODEL}",
                f"command line: IMAGES is missing: {detect.IMAGES}",
                "command line: --out is missing: a new folder for results and pictures",
            ],
        ),
        (
            "detect predict taken scenes scens --out found --score 2 --device tpu",
            [
                "command line: IMAGES  there is nothing at 'scens'; did you mean 'scenes'?",
                "command line: --score  must be a number of at least 0 and at most 1, not '2'",
                "command line: --device  must be auto, cpu, cuda, cuda:N or mps, not 'tpu'",
            ],
        ),
        (
            "detect predict taken scenes --out taken",
            ["command line: --out  taken exists already and is never overwritten; name a new folder"],
        ),
        ("detect predict taken --oout x scenes", ["command line: unknown option --oout; did you mean '--out'?"]),
        (
            "detect predict pretrained scenes --out found",
            [
                "command line: RUN  pretrained is a pretrained backbone, not a detector; train one on it with surnia "
                "detect train RECIPE --network.weights pretrained"
            ],
        ),
        (
            "detect unknowns file.txt scenes --out found",
            [f"command line: RUN  file.txt is a file; give {detect.MODEL}"],
        ),
        (
            "detect unknowns taken scenes --out found --min-group 1 --groups none",
            [
                "command line: --groups  must be a whole number of at least 1, not 'none'",
                "command line: --min-group  must be a whole number of at least 2, not '1'",
            ],
        ),
        # learn
        (
            "detect learn taken",
            ["command line: NAMES is missing: names.yaml of `surnia detect unknowns`, with names typed in"],
        ),
        (
            "detect learn taken scenes",
            ["command line: NAMES  there is no scenes/names.yaml; give names.yaml, or the folder it is in"],
        ),
        (
            "detect learn pretrained file.txt",
            ["command line: RUN  pretrained is a pretrained backbone, not a detector"],
        ),
        (
            "detect learn scenes file.txt",
            ["command line: RUN  scenes is not a run of surnia detect train: it has no recipe.yaml"],
        ),
        (
            "detect learn taken file.txt --later.step 3",
            ["command line: --later.step  unknown setting 'step' in later; did you mean '--later.steps'?"],
        ),
        (
            "detect learn taken file.txt --network.width 3 --seed 2 --later.steps 9",
            [
                f"command line: --{key}  {key} is part of what taken has learnt and cannot change in a further task; "
                "leave it out, or train a new run"
                for key in ("network.width", "seed")
            ],
        ),
        # score
        (
            "detect score --gt nowhere --mode oer",
            [
                "command line: --detections is missing: COCO results: a list of {image_id, category_id, bbox, score}, "
                "of unknown objects with unknown_id; or a folder of files in Pascal VOC's form, one a class",
                "command line: --tasks is missing: a task file (YAML), or m_owodb, s_owodb, voc_coco",
                "command line: --task is missing: the last task that the model has learnt",
                "command line: --gt  there is nothing at 'nowhere'",
                "command line: --mode  must be one of strict, ore, not 'oer'; did you mean 'ore'?",
            ],
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_sentences_on_stderr_with_code_2(surnia, calls, tmp_path, line, sentences):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "file.txt").write_text("text")
    begun(tmp_path / "taken")
    begun(tmp_path / "pretrained", "method: byol\n")
    code, out, err = surnia(*line.split())
    assert err.splitlines() == sentences
    assert out == ""
    assert code == 2
    assert not calls


def test_a_recipes_path_is_named_with_the_folder_that_it_is_relative_to(surnia, calls, tmp_path, monkeypatch):
    draw_set(tmp_path / "farm/set")
    (tmp_path / "farm/r.yaml").write_text(
        "data: {name: coco, tasks: set/tasks.yaml, train: [set/train_1.json], val: va.json, test: /no.json, images: .}"
    )
    (tmp_path / "farm/va.jsn").touch()
    code, _, err = surnia("detect", "train", "farm/r.yaml")
    assert code == 2 and not calls
    said = dict(line.partition("  ")[2].split(": ", 1) for line in err.splitlines())
    there = "is there: paths are relative to the folder in which the command is run"
    assert said == {
        "data.train": f"there is nothing at 'set/train_1.json', but 'farm/set/train_1.json' {there}",
        "data.val": f"there is nothing at 'va.json' in {tmp_path}, the folder in which the command is run",
        "data.test": "there is nothing at '/no.json'",
        "data.tasks": "there is nothing at 'set/tasks.yaml'; nor is there a folder 'set'",
    }
    monkeypatch.chdir(tmp_path / "farm")
    assert "did you mean 'va.jsn'?" in surnia("detect", "train", "r.yaml")[2]


@pytest.mark.parametrize("voc", ["--voc VOCdevkit ", ""])
def test_a_benchmark_that_is_not_built_yet_leads_to_its_command(surnia, calls, tmp_path, voc):
    tasks = "m_owodb" if voc else "s_owodb"
    code, _, err = surnia("detect", "train", f"openworld_resnet50_{tasks}", "--network.weights", "null")
    (said,) = err.splitlines()
    assert code == 2 and not calls
    assert said.endswith(
        f"  data: there is no folder 'data/{tasks}' yet; build the benchmark with: "
        f"surnia detect data owod --tasks {tasks} {voc}--coco coco --out data/{tasks}"
    )
    # A path that was given says for itself what is wrong with it, and so do all once the folder is there.
    again = ["--network.weights", "null", "--data.test", "mine.json"]
    assert "data.test: there is nothing at 'mine.json'" in surnia("detect", "train", f"ore_resnet50_{tasks}", *again)[2]
    (tmp_path / "data" / tasks).mkdir(parents=True)
    assert (
        f"data.val: there is nothing at 'data/{tasks}/val.json'"
        in surnia("detect", "train", f"ore_resnet50_{tasks}", *again)[2]
    )


def test_what_annotation_files_lack_is_told_at_once_before_torch(surnia, calls, tmp_path):
    recipe = {
        "data": {
            "name": "coco", "tasks": "tasks.yaml", "val": "",
            "train": ["set/train_1.json", "set/trian_2.json", "set/train_1.json"],
            "test": "set", "images": "set/image",
        },
        "tasks": 3,
    }  # fmt: skip
    draw_set(tmp_path / "set")
    TASKS.save(tmp_path / "tasks.yaml")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = surnia("detect", "train", "r.yaml")
    assert code == 2
    said = {line.partition("  ")[2] for line in err.splitlines()}
    assert said == {
        "data.images: there is nothing at 'set/image'; did you mean 'set/images'?",
        "data.train: there is nothing at 'set/trian_2.json'; did you mean 'set/train_2.json'?",
        "data.val is missing: give the file, here or with --data.val",
        "data.test: 'set' is a folder, not a file",
        "data.train must name one file for all tasks, or one for each of the 2 tasks of tasks.yaml, not 3",
        "tasks must be at most 2, as tasks.yaml has no more, not 3",
    }
    assert all(line.startswith("r.yaml:") for line in err.splitlines())
    assert not calls


def test_a_wrong_task_file_is_told_with_its_line(surnia, tmp_path):
    (tmp_path / "tasks.yaml").write_text("name: mine\ntasks:\n  - [cat, dog]\n  - [dog]\n")
    data = {
        "name": "coco",
        "tasks": "tasks.yaml",
        "train": ["r.yaml"],
        "val": "r.yaml",
        "test": "r.yaml",
        "images": ".",
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"data": data}))
    code, _, err = surnia("detect", "train", "r.yaml")
    assert code == 2
    assert err.startswith("tasks.yaml:4:")
    assert "dog" in err


# --- what the commands are given -------------------------------------------------------------------------------------


def test_train_gets_the_recipe_and_a_numbered_directory(surnia, calls, tmp_path):
    words = ["detect", "train", "openscenes_small", "--later.steps", "7", "--network", "resnet18_fpn",
             "--network.anchors=[8,16,32,64]"]  # fmt: skip
    assert surnia(*words) == (0, "", "")
    _, (recipe,), given = calls[0]
    assert (recipe.later.steps, recipe.network.name, recipe.network.pyramid) == (7, "resnet18_fpn", 64)
    assert str(given["run_dir"]) == "runs/openscenes_small-1"
    assert given["command"] == ["surnia", *words]
    (tmp_path / "resolved.yaml").write_text(given["recipe_text"])
    assert load("resolved.yaml", [], DetectionRecipe).recipe == recipe
    begun(tmp_path / "runs" / "openscenes_small-4")
    surnia("detect", "train", "openscenes_small", "--dry-run")
    assert str(calls[1][2]["run_dir"]) == "runs/openscenes_small-5"
    assert calls[1][2]["dry_run"] is True


def test_a_continued_run_keeps_what_determines_its_weights(surnia, calls, tmp_path):
    surnia("detect", "train", "openscenes_small", "--tasks", "2")
    run = tmp_path / "runs" / "openscenes_small-1"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(calls.pop()[2]["recipe_text"])
    code, _, err = surnia("detect", "train", "openscenes_small", "--tasks", "2", "--resume", "--first.steps", "3")
    assert code == 2
    assert err == (
        "command line: --first.steps  first.steps is 3, but runs/openscenes_small-1 was begun with 1200: leave it as "
        "it was, or begin a new run (without --resume)\n"
    )
    changed = (run / "recipe.yaml").read_text().replace("steps: 1200", "steps: 9")
    (run / "recipe.yaml").write_text(changed)
    code, _, err = surnia("detect", "train", "openscenes_small", "--resume", "runs/openscenes_small-1")
    assert code == 2
    assert "surnia detect train --resume runs/openscenes_small-1), or begin" in err
    # More tasks, and where things are computed, may be changed.
    assert surnia("detect", "train", "--resume", "runs/openscenes_small-1", "--tasks", "4", "--threads", "1")[0] == 0
    _, (recipe,), given = calls[0]
    assert (recipe.tasks, given["resume"], str(given["run_dir"])) == (4, True, "runs/openscenes_small-1")


def test_images_may_stand_on_both_sides_of_an_option(surnia, calls, tmp_path):
    begun(tmp_path / "run")
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    assert surnia("detect", "predict", "run", "a.png", "--out", "found", "b.png")[0] == 0
    (args,) = calls[0][1]
    assert [str(path) for path in args.images] == ["a.png", "b.png"]
    assert (str(args.run), str(args.out), args.score, args.batch_size, args.bad_images) == ("run", "found", 0.5, 8, 10)
    assert args.command[:3] == ["surnia", "detect", "predict"]


def test_all_that_is_called_unknown_is_collected_unless_more_is_asked_for(surnia, calls, tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "scenes").mkdir()
    for more in ([], ["--posterior", "0"], ["--posterior", "0.9"]):
        assert surnia("detect", "unknowns", "run", "scenes", "--out", "found", *more)[0] == 0
    assert [args.posterior or 0 for _, (args,), _ in calls] == [0, 0, 0.9]
    for given in ("0.3", "0.5"):
        code, _, err = surnia("detect", "unknowns", "run", "scenes", "--out", "found", "--posterior", given)
        said = f"command line: --posterior  leaves out nothing at {given}, because what is called unknown has more than"
        assert code == 2 and err.startswith(said) and "leave the option out" in err
    assert len(calls) == 3


def test_learn_gets_the_runs_recipe_with_settings_over_it(surnia, calls, tmp_path):
    begun(tmp_path / "run")
    (tmp_path / "unknowns").mkdir()
    (tmp_path / "unknowns" / "names.yaml").touch()
    assert surnia("detect", "learn", "run", "unknowns", "--run", "next", "--later.steps", "9")[0] == 0
    _, (args, recipe), given = calls[0]
    assert (str(args.begun), str(args.names), str(args.run)) == ("run", "unknowns/names.yaml", "next")
    assert recipe.later.steps == 9
    assert given["command"][:3] == ["surnia", "detect", "learn"]
