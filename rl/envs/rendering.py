"""Which OpenGL MuJoCo draws with where there is no screen: EGL, else OSMesa.

MuJoCo and dm_control read the environment variable MUJOCO_GL once, when they are imported, and without it look for a
window system first. So it is set here, before their import, unless the user has set it.
"""

import contextlib
import ctypes
import ctypes.util
import importlib
import logging
import os
import sys

from sslcore.errors import ConfigError

_LOG = logging.getLogger("surnia")
_EGL_PLATFORM_DEVICE = 0x313F  # EGL_EXT_platform_device
_EGL_VENDOR = 0x3053
_MOST_DEVICES = 16

_said: str | None = None
_ours: str | None = None  # what MUJOCO_GL was set to here


def choose_renderer() -> str:
    """Set MUJOCO_GL if nobody has, log once which renderer that gives, and return the sentence.

    Raises:
        ConfigError: a Linux machine without MUJOCO_GL offers neither EGL nor OSMesa.
    """
    global _said, _ours
    if _said is None:
        _ours, sentence = _choice()
        if _ours is not None:
            os.environ["MUJOCO_GL"] = _ours
        _said = sentence
        _LOG.info("%s", sentence)
    return _said


def renderer() -> str:
    """What `choose_renderer` has chosen or would choose, as a sentence; changes nothing and never raises."""
    if _said is not None:
        return _said
    try:
        return _choice()[1]
    except ConfigError as error:
        return str(error)


def chosen_by_the_user() -> str | None:
    """MUJOCO_GL, unless it was set by `choose_renderer`."""
    return os.environ.get("MUJOCO_GL") if _ours is None else None


def drawing_environment() -> dict[str, str]:
    """The environment variables of a process that is to draw as this one has chosen or would; changes nothing."""
    if _said is None:
        with contextlib.suppress(ConfigError):
            name, _ = _choice()
            return {**os.environ, **({} if name is None else {"MUJOCO_GL": name})}
    return dict(os.environ)


def _choice() -> tuple[str | None, str]:
    """The value for MUJOCO_GL, or None to leave it, and the sentence that says so."""
    _load_triton()
    given = os.environ.get("MUJOCO_GL")
    if given is not None:
        return None, f"MuJoCo draws as MUJOCO_GL={given} says"
    if not sys.platform.startswith("linux"):
        return None, "MuJoCo draws with the OpenGL of this system"
    vendor = egl_vendor()
    if vendor is not None:
        return "egl", f"MuJoCo draws without a screen through EGL ({vendor})"
    if ctypes.util.find_library("OSMesa"):
        return "osmesa", "MuJoCo draws without a screen in software, through OSMesa, as EGL opens no device"
    raise ConfigError(
        "MuJoCo cannot draw here: EGL opens no device and there is no OSMesa; install libegl1 with a driver "
        "(libegl-mesa0 draws in software) or libosmesa6"
    )


def _load_triton() -> None:
    """Before any OpenGL: torch imports triton with its first optimiser, and after Mesa's LLVM its own cannot be loaded.

    The process dies of it (a segmentation fault), so that an agent could only be made before its environment.
    """
    with contextlib.suppress(Exception):  # whatever is wrong with it is for torch to say, if it needs triton at all
        importlib.import_module("triton")


def egl_vendor() -> str | None:
    """Who made the EGL device that opens first ("NVIDIA", "Mesa Project"), or None if none opens.

    Asks EGL itself, in the order in which MuJoCo will: an installed library alone does not mean that it works.
    """
    name = ctypes.util.find_library("EGL")
    if name is None:
        return None
    try:
        egl = ctypes.CDLL(name)
        return _first_vendor(egl)
    except (OSError, AttributeError):
        return None


def _first_vendor(egl: ctypes.CDLL) -> str | None:
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglQueryString.restype = ctypes.c_char_p
    egl.eglQueryString.argtypes = [ctypes.c_void_p, ctypes.c_int]
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    query_at, display_at = (
        egl.eglGetProcAddress(function) for function in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT")
    )
    if not query_at or not display_at:
        return None
    handle, pointer = ctypes.c_void_p, ctypes.POINTER
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer(handle), pointer(ctypes.c_int))(query_at)
    get_display = ctypes.CFUNCTYPE(handle, ctypes.c_uint, handle, handle)(display_at)

    devices, count = (handle * _MOST_DEVICES)(), ctypes.c_int()
    if not query_devices(_MOST_DEVICES, devices, ctypes.byref(count)):
        return None
    for device in _selected(list(devices[: count.value])):
        display = get_display(_EGL_PLATFORM_DEVICE, device, None)
        if display and egl.eglInitialize(display, None, None):
            # Not terminated: MuJoCo opens the same display, and terminating would close it for everybody.
            vendor = egl.eglQueryString(display, _EGL_VENDOR)
            return vendor.decode(errors="replace") if vendor else "unnamed driver"
    return None


def _selected(devices: list) -> list:
    """Those that MuJoCo will try: one if MUJOCO_EGL_DEVICE_ID names it, else all."""
    wanted = os.environ.get("MUJOCO_EGL_DEVICE_ID", "")
    return devices[int(wanted) : int(wanted) + 1] if wanted.isdigit() else devices
