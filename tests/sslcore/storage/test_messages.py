from sslcore.storage.messages import show_path


def test_names_cannot_write_to_the_terminal():
    assert show_path("a\x1b[2J\nb\udcff") == "a\\x1b[2J\\nb\\udcff"
