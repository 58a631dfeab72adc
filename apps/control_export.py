"""`surnia control export`: the encoder of an agent, as a backbone that sees single images."""

import argparse

from rich.console import Console

from apps.control_record import best_run
from apps.probing import pick_device
from apps.report.control.run import ControlRun
from rl.training.encoders import export_encoder
from rl.training.runner import load_agent


def run(args: argparse.Namespace) -> int:
    """The command."""
    place = best_run(args.run)
    agent = load_agent(place, which=args.which, device=str(pick_device(args.device)))
    export_encoder(agent, args.out, stack=ControlRun(place).recipe.env.stack)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Wrote {args.out}\nNext:\n  surnia evaluate linear {args.out} --data DIR", markup=False)
    return 0
