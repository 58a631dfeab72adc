"""`surnia export`: a backbone for another library, and what the check there found."""

import argparse
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from sslcore.backbones.loading import load_backbone
from sslcore.pretrain.export import export_backbone


def run(args: argparse.Namespace) -> int:
    """Write the file, show how well it loads, and how to use it."""
    loaded = load_backbone(args.run)
    report = export_backbone(loaded, args.to, args.out)
    console = Console(soft_wrap=True, highlight=False)
    table = Table(title=f"{loaded.backbone.name} for {report.to}", show_header=False, title_justify="left")
    table.add_row("matched keys", f"{len(report.matched):,}")
    table.add_row("unmatched keys", f"{len(report.unmatched):,}")
    table.add_row("largest difference of the outputs", f"{report.max_difference:g}")
    table.add_row("left behind in the checkpoint", f"{len(loaded.unmatched):,} tensors of heads, queues and the like")
    console.print(table)
    for line in (
        f"Matched: {shortened(report.matched)}.",
        f"Unmatched: {', '.join(report.unmatched) or 'none'}.",
        f"Left behind: {', '.join(loaded.unmatched) or 'nothing'}.",
        "",
        f"{report.checked_by[0].upper()}{report.checked_by[1:]}.",
        f"Written to {report.path}. To use it:",
        "",
    ):
        console.print(line, markup=False)
    console.print(report.usage, markup=False)
    return 0


def shortened(keys: Sequence[str]) -> str:
    """`conv1.weight, bn1.* (5), layer1.* (24)`: the parts of a network, in order, with the number of their keys."""
    parts = Counter(key.partition(".")[0] for key in keys)
    alone = {key.partition(".")[0]: key for key in keys}
    return ", ".join(alone[part] if count == 1 else f"{part}.* ({count})" for part, count in parts.items())
