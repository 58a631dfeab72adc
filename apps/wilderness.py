"""How many classes a wilderness impact is taken from: two of sixteen that reach the recall are enough for a number."""

from collections.abc import Sequence
from typing import Any


def classes_behind(result: dict[str, Any]) -> tuple[int, int] | None:
    """The known classes that reach a recall of .8, and all that the test images have; None if that is not to be said.

    Args:
        result: as `detection.evaluation.evaluate` gives it. Mode ore takes the classes that do not reach it, too.
    """
    if result["wi"] is None or result.get("mode") != "strict" or "wi_classes" not in result:
        return None
    recalls = result["recall_per_class"]
    return result["wi_classes"], sum(recall is not None for name, recall in recalls.items() if name != "unknown")


def impact(result: dict[str, Any], form: str) -> str:
    """`0.0219 (2 of 16 classes)`; a dash where it is undefined."""
    if result["wi"] is None:
        return "–"
    behind = classes_behind(result)
    return f"{result['wi']:{form}}" + (f" ({behind[0]} of {behind[1]} classes)" if behind else "")


def impact_lines(done: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences for beneath a table without room: after which tasks not all known classes reach the recall."""
    counts = [(each["task"], behind) for each in done if (behind := classes_behind(each["strict"]))]
    return [
        f"WI after task {task}: only {reaching} of {of} known classes reach the recall of .8 that it is taken at."
        for task, (reaching, of) in counts
        if reaching < of
    ]
