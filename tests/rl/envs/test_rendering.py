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


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"dm-control": "1.0.50", "mujoco": "3.17.0"}, "is a pair that was seen working"),
        ({"dm-control": "1.0.50", "mujoco": "4.0.0"}, "pip install dm-control==1.0.50 mujoco==3.17.0"),
    ],
)
def test_doctor_knows_the_pairs(versions, says, monkeypatch):
    offers(monkeypatch, egl="NVIDIA")
    monkeypatch.setattr(doctor, "_version", versions.get)
    lines = doctor.doctor_lines()
    assert any(says in line for line in lines) and any("EGL" in line for line in lines)
    assert "stable-baselines3 is missing (the agent): pip install 'surnia[control]'" in lines


def test_doctor_draws_nothing_without_mujoco(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"gymnasium": "1.4.0"}.get)
    lines = doctor.doctor_lines()
    assert lines[1] == "gymnasium 1.4.0" and not any("MuJoCo draws" in line for line in lines)
