"""What the benchmark of the open-world parts' overhead measures, and beside which goals it is printed."""

import json

import pytest


def test_both_goals_are_printed_and_kept_beside_what_was_measured(scripts, tmp_path, monkeypatch, capsys):
    import openworld_overhead

    monkeypatch.setattr(openworld_overhead, "WARM", 2)
    file = tmp_path / "found.json"
    small = ["--size", "64", "--batch", "2", "--regions", "16", "--rounds", "1", "--json", str(file)]
    openworld_overhead.main(small)
    said = capsys.readouterr().out
    kept = json.loads(file.read_text())
    for work, goal in (("training step", 0.05), ("prediction", 0.03)):
        (line,) = [line for line in said.splitlines() if line.startswith("open-world parts add") and work in line]
        assert line == f"open-world parts add {kept[work]['overhead']:+.1%} to a {work} (goal: at most {goal:.0%})"
        assert kept[work]["goal"] == goal
        plain, ours = (row["median_ms"] for row in kept[work]["rows"])
        assert kept[work]["overhead"] == pytest.approx(ours / plain - 1)  # of the one round that there was


def test_what_has_no_goal_is_printed_without_one(scripts, capsys):
    from overhead import Work, compare, options_of, parser_of

    options = options_of(parser_of("about", ["tiny"], rounds=1), [])
    compare([Work("look", {"plain": lambda: None, "ours": lambda: None}, 1)], options)
    said = capsys.readouterr().out
    assert "to a look" in said and "goal" not in said
