import ast
from pathlib import Path

import pytest

import sslcore
from sslcore.storage import operations


@pytest.mark.parametrize("between", [None, "error:9"])
def test_a_fault_strikes_once_and_again_after_a_step_without_it(monkeypatch, between):
    for _ in range(2):
        monkeypatch.setenv("SURNIA_FAULT", "error:2:EIO")
        operations.step("write", "a")
        with pytest.raises(OSError, match="Input/output error"):
            operations.step("fsync", "a")
        for _ in range(3):
            operations.step("unlink", "a")
        monkeypatch.delenv("SURNIA_FAULT")
        if between is not None:
            monkeypatch.setenv("SURNIA_FAULT", between)
        operations.step("write", "a")


def test_nothing_else_in_storage_opens_files_for_writing():
    folder = Path(sslcore.__file__).parent / "storage"
    found = []
    for path in sorted(folder.glob("*.py")):
        if path.name in _WRITERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _writes(node):
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    assert not found


_WRITERS = {"files.py", "folders.py", "operations.py"}
_CHANGES = {"write_text", "write_bytes", "touch", "mkdir", "unlink", "rmdir", "rename", "save_file"}


def _writes(call):
    name = ast.unparse(call.func)
    owner, _, method = name.rpartition(".")
    if name == "open":
        return any(set("wax+") & set(ast.literal_eval(mode)) for mode in call.args[1:])
    if owner in ("shutil", "tempfile") or name in ("os.open", "os.replace", "os.remove", "torch.save"):
        return True
    return owner != "files" and method in _CHANGES
