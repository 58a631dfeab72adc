import logging
import os
import sys

import pytest

from rl.envs import doctor, rendering
from rl.envs.rendering import choose_renderer, renderer
from sslcore.errors import ConfigError


@pytest.fixture(autouse=True)
def linux_without_a_choice(monkeypatch):
    monkeypatch.setattr(rendering, "_said", None)
    monkeypatch.setattr(rendering, "_ours", None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", "x")  # so that it is restored after the test
    monkeypatch.delenv("MUJOCO_GL")


def offers(monkeypatch, *, egl=None, osmesa=None):
    monkeypatch.setattr(rendering, "egl_vendor", lambda: egl)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: osmesa if name == "OSMesa" else None)


def test_egl_first_and_says_so_once(monkeypatch, caplog):
    offers(monkeypatch, egl="NVIDIA", osmesa="libOSMesa.so.8")
    with caplog.at_level(logging.INFO, logger="surnia"):
        assert "EGL (NVIDIA)" in choose_renderer() and choose_renderer() == renderer()
    assert os.environ["MUJOCO_GL"] == "egl"
    assert [record.message for record in caplog.records] == [renderer()]


def test_osmesa_where_egl_opens_no_device(monkeypatch):
    offers(monkeypatch, osmesa="libOSMesa.so.8")
    assert "OSMesa" in choose_renderer() and os.environ["MUJOCO_GL"] == "osmesa"


def test_the_users_choice_stands(monkeypatch):
    offers(monkeypatch, egl="NVIDIA")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert "MUJOCO_GL=osmesa" in choose_renderer() and os.environ["MUJOCO_GL"] == "osmesa"


def test_nothing_at_all_is_an_error_with_the_remedy(monkeypatch):
    offers(monkeypatch)
    with pytest.raises(ConfigError, match=r"install libegl1 .* or libosmesa6"):
        choose_renderer()
    assert "MuJoCo cannot draw here" in renderer() and "MUJOCO_GL" not in os.environ


def test_asking_changes_nothing(monkeypatch):
    offers(monkeypatch, egl="Mesa Project")
    assert "Mesa Project" in renderer() and "MUJOCO_GL" not in os.environ


def test_other_systems_keep_their_own(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "this system" in choose_renderer() and "MUJOCO_GL" not in os.environ


def test_the_probe_of_this_machine_answers():
    found = rendering.egl_vendor()
    assert found is None or found.isprintable()


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """Makes a dm_control of a few lines the one that other processes import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "dm_control").mkdir()
    (tmp_path / "dm_control" / "__init__.py").touch()
    return (tmp_path / "dm_control" / "suite.py").write_text


SOUND = """
import os
class Task:
    def reset(self): pass
    @property
    def physics(self): return self
    def render(self, height, width): assert os.environ["MUJOCO_GL"] == "egl"
    def free(self): pass
def load(domain, task): return Task()
"""


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        (SOUND, "loads a task and draws it"),
        (
            "def load(*task): raise AttributeError('no flex_vertedge')",
            "cannot load a task (AttributeError: no flex_vertedge): pip install dm-control==1.0.50 mujoco==3.17.0",
        ),
        ("import os; os.abort()", "cannot load a task (ended by signal 6): pip install"),
        (SOUND.replace('== "egl"', "is None, 'no context'"), "cannot draw it (AssertionError: no context)"),
        (
            SOUND.replace("class", "assert os.environ['MUJOCO_GL'] == 'disable'\nclass"),
            "cannot draw it (AssertionError)",
        ),
    ],
)
def test_doctor_tries_dm_control(suite, says, pretended, monkeypatch):
    offers(monkeypatch, egl="NVIDIA")
    pretended(suite)
    assert says in doctor.try_dm_control()
    assert "MUJOCO_GL" not in os.environ


def test_doctor_does_not_wait_for_ever(pretended, monkeypatch):
    offers(monkeypatch, egl="NVIDIA")
    pretended("import time; time.sleep(60)")
    assert doctor.try_dm_control(seconds=0.5) == "did not draw a task within 0.5 seconds"


def test_doctor_tells_whose_choice_cannot_draw(pretended, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    pretended(SOUND)
    assert doctor.try_dm_control().endswith(": unset MUJOCO_GL, which is osmesa, and Surnia chooses")


def test_doctor_tries_what_is_there(monkeypatch):
    offers(monkeypatch, egl="NVIDIA")
    monkeypatch.setattr(doctor, "_version", {"dm-control": "1.0.50", "mujoco": "4.0.0"}.get)
    monkeypatch.setattr(doctor, "try_dm_control", lambda: "works")
    lines = doctor.doctor_lines()
    assert "dm-control 1.0.50 with mujoco 4.0.0 works" in lines and any("EGL" in line for line in lines)
    assert "stable-baselines3 is missing (the agent): pip install 'surnia[control]'" in lines


def test_doctor_draws_nothing_without_mujoco(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"gymnasium": "1.4.0"}.get)
    lines = doctor.doctor_lines()
    assert lines[1] == "gymnasium 1.4.0" and not any("MuJoCo draws" in line for line in lines)
