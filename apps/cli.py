"""The `surnia` command: what it can do, and how errors are told.

Nothing but the standard library is imported before a command is chosen, so that help is there at once.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

from apps import commands
from apps.command_group import CommandGroup
from sslcore.errors import SurniaError

SURNIA = CommandGroup(
    "surnia",
    "One contrastive core: image pretraining, open-world detection, control from pixels.",
    {
        "demo": ("see it work on pictures that come with it, in a few minutes", commands.demo),
        "doctor": ("look at this machine, or at a folder of images, and say what to do next", commands.doctor),
        "pretrain": ("train a backbone on images without labels", commands.pretrain),
        "detect": (
            "find known objects, flag unknown ones, take on new classes: train, predict, learn, ...",
            commands.detect,
        ),
        "control": ("learn to act from pixels, by reward: train, resume, evaluate, record, export", commands.control),
        "evaluate": ("how good a backbone's features are: knn, linear, finetune", commands.evaluate),
        "embed": ("write the features of every image to a file", commands.embed),
        "export": ("write a backbone for torchvision or detectron2", commands.export),
        "recipes": ("list or print the recipes that ship with Surnia", commands.recipes),
    },
    flags=("--help", "--version"),
    closing=" Version: surnia --version.",
)


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line; errors are raised."""
    if arguments and arguments[0] == "--version":
        from importlib.metadata import version

        print(f"surnia {version('surnia')}")
        return 0
    return SURNIA(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line; errors become sentences on stderr and an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    words = [argument for argument in given if argument != "--debug"]
    try:
        code = run(words)
        sys.stdout.flush()
        return code
    except SystemExit as leaving:  # argparse after printing a help text
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt as stopped:
        print(str(stopped) or "Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; Python's own flush at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(tell(error, " ".join(words[: 2 if words[:1] in (["detect"], ["control"]) else 1])), file=sys.stderr)
        return error.exit_code if isinstance(error, SurniaError) else 1


SMALLER = {
    "pretrain": "a smaller --batch_size (with --accumulate for the same effective one) or smaller views",
    "detect train": "a smaller --batch_size, --network.min_size or --network.proposals_train",
    "detect learn": "a smaller --batch_size, --network.min_size or --network.proposals_train",
    "control train": "a smaller --agent.buffer_size, --agent.batch_size or --env.size, or --agent.storage cpu",
    "control resume": "--agent.storage cpu",
    "detect evaluate": "a smaller --batch-size, or --device cpu",
    "detect predict": "a smaller --batch-size, or --device cpu",
    "detect unknowns": "a smaller --batch-size, or --device cpu",
    "evaluate": "a smaller --batch-size, or --device cpu",
    "embed": "a smaller --batch-size, or --device cpu",
}
"""What a command can be asked to do with less memory."""


OURS = {"", "apps", "detection", "rl", "sslcore"}
CALLED = {"sklearn": "scikit-learn", "skimage": "scikit-image", "PIL": "pillow", "ruamel": "ruamel.yaml"}
"""Packages whose modules have another name."""


def tell(error: Exception, command: str = "") -> str:
    """What a person is told about an error of a command."""
    if isinstance(error, SurniaError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"out of memory: try {SMALLER.get(command, 'again when other programs have ended')}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):  # in a package's own files
        return "no space left on the disk: free some; what a run had saved before is intact, and it goes on from there"
    if isinstance(error, ModuleNotFoundError) and (module := (error.name or "").partition(".")[0]) not in OURS:
        package = CALLED.get(module, module.replace("_", "-"))
        return f"the package {package} is not installed: pip install {package}, then run the command again"
    said = (str(error).strip() or "no further words").splitlines()[0]
    return f"unexpected {type(error).__name__}: {said} (run again with --debug for the traceback)"


if __name__ == "__main__":
    sys.exit(main())
