"""Packages that load their names late: every name is there, and nothing heavy is imported before it is used."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["sslcore", "sslcore.pretrain", "sslcore.storage", "detection.data.scenes"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_had(package):
    module = importlib.import_module(package)
    assert module.__all__
    assert dir(module) == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nowhere'"):
        _ = module.nowhere


def test_importing_the_packages_imports_no_torch():
    code = f"import sys, {', '.join(PACKAGES)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_names_written_out_for_type_checkers_are_those_attached():
    import detection.data.scenes as scenes
    from sslcore._lazy import attach

    assert sorted(scenes.__all__) == attach("detection.data.scenes", scenes._HOME)[0]
