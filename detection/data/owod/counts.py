"""How large a built benchmark is, beside what is published, and why the two differ."""

from dataclasses import asdict, dataclass
from typing import Any

OTHER_FILES = "other files"
"""Said where the rule itself does not give the published number: the annotations are not the released ones."""
BY_LOT = "drawn anew, by lot"


@dataclass(frozen=True)
class Count:
    """One number.

    Attributes:
        what: images or objects of what.
        published: None where nothing is.
        by_rule: by the published rule from these files, lines counted as often as they are listed.
        written: in the files that were written.
        reason: why `written` is not `by_rule`, if so.
        by_lot: the rule leaves the number to a draw, so that another one says nothing about the files.
    """

    what: str
    published: int | None
    by_rule: int
    written: int
    reason: str = ""
    by_lot: bool = False

    @property
    def why(self) -> str:
        """Why what was written is not what is published; empty if it is."""
        parts = []
        if self.published is not None and self.by_rule != self.published:
            parts.append(BY_LOT if self.by_lot else OTHER_FILES)
        if self.by_rule != self.written:
            parts.append(self.reason)
        return "; ".join(part for part in parts if part)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        del values["by_lot"]
        return {**values, "reason": self.why}
