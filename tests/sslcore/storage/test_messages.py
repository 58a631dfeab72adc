import errno

import pytest

from sslcore.storage.messages import explain, show_names, show_path


def test_names_cannot_write_to_the_terminal():
    assert show_path("a\x1b[2J\nb\udcff") == "a\\x1b[2J\\nb\\udcff"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a"),
            "no space left on device; free some space on that disk or choose another folder",
        ),
        (OSError(errno.EXDEV, "Invalid cross-device link"), "invalid cross-device link; check the path and the disk"),
        (OSError("Timed out"), "timed out; check the path and the disk"),
        (OSError(), "oserror; check the path and the disk"),
    ],
)
def test_an_error_has_a_reason_and_a_remedy(error, said):
    assert explain(error) == said


def test_a_list_of_classes_names_the_first_and_says_how_many_more():
    assert show_names([]) == ""
    assert show_names(["dog", "thing, blob"]) == "dog, 'thing, blob'"
    assert show_names(["a", "b", "c", "d"], most=4) == "a, b, c, d"
    assert show_names(["a", "b", "c", "d", "e"], most=2) == "a, b and 3 more"
