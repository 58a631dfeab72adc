"""Results that benchmark scripts keep, so that they go on where they were interrupted."""

import hashlib
import json
from pathlib import Path
from typing import Any


def store(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)


def key(value: Any) -> str:
    """Ten digits that follow from a JSON value, for the name of a folder."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
