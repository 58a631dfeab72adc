from apps.run_directory import open_run


def opened(path, recipe, **given):
    with open_run(path, recipe=recipe, command=["surnia"], seed=0, **given):
        return (path / "recipe.yaml").read_text()


def test_a_run_says_where_it_writes_and_keeps_the_recipe_it_goes_on_with(tmp_path, capsys):
    run = tmp_path / "run"
    assert opened(run, "steps: 5\n", resume=False) == "steps: 5\n"
    assert capsys.readouterr() == ("", f"run directory: {run}\n")
    assert opened(run, "steps: 9\n", resume=True) == "steps: 9\n"
    assert capsys.readouterr() == ("", f"run directory: {run}\n")
    opened(run, "steps: 9\n", resume=True, quiet=True)
    assert capsys.readouterr() == ("", "")
