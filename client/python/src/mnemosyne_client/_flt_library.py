"""The compiled kernels of FLT attention, called through their plain C interface.

`kernels/c_api/flt.h` is the specification of all that is here. Tensors travel as DLPack's structs,
so that nothing depends on a version of PyTorch.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import pathlib
from typing import Any

from mnemosyne_client.errors import InvalidRequestError, MnemosyneError

_INVALID_ARGUMENT = 3  # absl::StatusCode::kInvalidArgument


class Config(ctypes.Structure):
    """`MnemosyneFltConfig`."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("heads", ctypes.c_size_t),
        ("dim", ctypes.c_size_t),
        ("value_dim", ctypes.c_size_t),
        ("features", ctypes.c_size_t),
        ("feature_map", ctypes.c_char_p),
        ("scale", ctypes.c_double),
        ("square_sum", ctypes.c_double),
        ("epsilon", ctypes.c_double),
        ("rpe", ctypes.c_char_p),
        ("positions", ctypes.c_size_t),
        ("waves", ctypes.c_size_t),
        ("modes", ctypes.c_size_t),
        ("is_signed", ctypes.c_int32),
        ("multiplicative", ctypes.c_int32),
        ("squared", ctypes.c_int32),
        ("clamp_negative_masks", ctypes.c_int32),
        ("frequency_scale", ctypes.c_double),
        ("norm_max", ctypes.c_double),
    ]


class Sizes(ctypes.Structure):
    """`MnemosyneFltSizes`."""

    _fields_ = [
        ("parameters", ctypes.c_size_t),
        ("waves", ctypes.c_size_t),
        ("projection_rows", ctypes.c_size_t),
        ("projection_inputs", ctypes.c_size_t),
        ("features", ctypes.c_size_t),
        ("state", ctypes.c_size_t),
    ]


class Call(ctypes.Structure):
    """`MnemosyneFltCall`."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("normalizers", ctypes.c_void_p),
        ("causal", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("sequence_starts", ctypes.POINTER(ctypes.c_size_t)),
        ("start_count", ctypes.c_size_t),
        ("clamped_rows", ctypes.c_size_t),
    ]


class Gradients(ctypes.Structure):
    """`MnemosyneFltGradients`."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("out_gradient", ctypes.c_void_p),
        ("q_gradient", ctypes.c_void_p),
        ("k_gradient", ctypes.c_void_p),
        ("v_gradient", ctypes.c_void_p),
        ("parameter_gradient", ctypes.c_void_p),
        ("projection_gradient", ctypes.c_void_p),
    ]


def _candidates() -> list[str]:
    """Where the library may be, the best first."""
    places = []
    if "MNEMOSYNE_FLT_LIBRARY" in os.environ:
        places.append(os.environ["MNEMOSYNE_FLT_LIBRARY"])
    name = "libmnemosyne_flt.so"
    places.append(str(pathlib.Path(__file__).with_name(name)))
    places.append(name)
    return places


def _load() -> ctypes.CDLL:
    """Opens the library and declares its functions.

    Raises:
        MnemosyneError: If it is nowhere.
    """
    for place in _candidates():
        try:
            library = ctypes.CDLL(place)
        except OSError:
            continue
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        library.mnemosyne_flt_error.restype = ctypes.c_char_p
        library.mnemosyne_flt_sizes.argtypes = [pointer, pointer]
        library.mnemosyne_flt_draw_projection.argtypes = [
            pointer, ctypes.c_int, ctypes.c_uint64, pointer,
        ]  # fmt: skip
        library.mnemosyne_flt_draw_frequencies.argtypes = [size, size, ctypes.c_uint64, pointer]
        library.mnemosyne_flt_create.argtypes = [
            pointer, pointer, size, pointer, size, pointer, size, pointer,
        ]  # fmt: skip
        library.mnemosyne_flt_free.argtypes = [pointer]
        library.mnemosyne_flt_free.restype = None
        library.mnemosyne_flt_init_state.argtypes = [pointer, size, pointer]
        library.mnemosyne_flt_forward.argtypes = [pointer, pointer]
        library.mnemosyne_flt_backward.argtypes = [pointer, pointer, pointer]
        return library
    raise MnemosyneError(
        "the library of kernels was not found: build the target mnemosyne_flt and set "
        "MNEMOSYNE_FLT_LIBRARY to the path of libmnemosyne_flt.so"
    )


_loaded: ctypes.CDLL | None = None


def library() -> ctypes.CDLL:
    """Returns the library, opened once."""
    global _loaded
    if _loaded is None:
        _loaded = _load()
    return _loaded


def check(code: int) -> None:
    """Raises what a function of the library has answered.

    Raises:
        InvalidRequestError: For bad arguments.
        MnemosyneError: For anything else.
    """
    if code == 0:
        return
    message = library().mnemosyne_flt_error().decode()
    raise (InvalidRequestError if code == _INVALID_ARGUMENT else MnemosyneError)(message)


def sizes(config: Config) -> Sizes:
    """Returns the sizes that follow from a config."""
    result = Sizes()
    check(library().mnemosyne_flt_sizes(ctypes.byref(config), ctypes.byref(result)))
    return result


class Kernel:
    """A prepared kernel; freed with this object."""

    def __init__(self, config: Config, base: Any, parameters: Any, projection: Any) -> None:
        """Makes one of float32 arrays on the host, as (address, count) pairs."""
        self._handle = ctypes.c_void_p()
        check(
            library().mnemosyne_flt_create(
                ctypes.byref(config), *base, *parameters, *projection, ctypes.byref(self._handle)
            )
        )

    def __del__(self) -> None:
        """Frees the kernel."""
        if self._handle and _loaded is not None:
            _loaded.mnemosyne_flt_free(self._handle)

    def init_state(self, count: int, address: int) -> None:
        """Sets the states of `count` streams to those before their first key."""
        check(library().mnemosyne_flt_init_state(self._handle, count, address))

    def forward(self, call: Call) -> None:
        """Runs the forward pass."""
        check(library().mnemosyne_flt_forward(self._handle, ctypes.byref(call)))

    def backward(self, call: Call, gradients: Gradients) -> None:
        """Runs the backward pass."""
        check(
            library().mnemosyne_flt_backward(
                self._handle, ctypes.byref(call), ctypes.byref(gradients)
            )
        )


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def tensor_pointer(capsule: Any) -> int:
    """Returns the address of the DLTensor in a DLPack capsule, which must outlive its use."""
    address = _capsule_pointer(capsule, b"dltensor")
    assert address is not None
    return int(address)
