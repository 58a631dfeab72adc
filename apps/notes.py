"""What a person is told beside the results of a command."""

import sys
from collections.abc import Sequence

SHOWN = 10  # things wrong with the data, without being fatal, that are named


def tell(problems: Sequence[object], *, rest: str = "") -> None:
    """What is wrong with data without being fatal, a line each; of many the first, and how many more there are.

    Args:
        problems: each as it is to be read.
        rest: how to see the others.
    """
    for problem in problems[:SHOWN]:
        print(f"note: {problem}", file=sys.stderr)
    if more := len(problems) - len(problems[:SHOWN]):
        print(f"note: {more} more like these{rest}", file=sys.stderr)
