"""The README's examples run as they are printed, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_an_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.sub(r"learn\([0-9_]+", "learn(1_003", code), names)  # a thousand steps without updates, then three
    [result] = [names[name] for name in ("loss", "features", "action") if name in names]
    assert torch.as_tensor(result).isfinite().all()
    assert list(tmp_path.iterdir()) == []


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_commands_are_those_of_the_program():
    from apps.cli import SURNIA

    used = set(re.findall(r"surnia ([a-z]+)", README))
    assert used <= set(SURNIA.commands)
