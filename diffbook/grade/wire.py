"""What passes between the grader and the student's process: plain values, within limits.

A message is one frame: the length of its JSON head, the length of its body, the head, the body.
Arrays and tensors lie in the body as raw bytes, and the head says what they are. There is no
pickle, and nothing in a message can name code. The reader checks every size before it reads, so
whatever the other side writes costs little: it is a message within the limits, or WireError.
"""

from __future__ import annotations

import json
import math
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from diffbook.check.core import Unknown

HEAD_LIMIT = 1 << 20  # bytes of JSON
BODY_LIMIT = 32 << 20  # bytes of arrays
DEPTH_LIMIT = 8
ITEM_LIMIT = 20_000
_LENGTHS = struct.Struct("!IQ")
_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


class WireError(Exception):
    """The other side wrote something that is no message."""


class WireClosed(WireError):
    """The other side is gone."""


class WireTimeout(WireError):
    """The other side did not answer in time."""


# ---------------------------------------------------------------------------------------------
# Values <-> frames


def encode(message: Any) -> bytes:
    """One frame. What is no plain value becomes an :class:`Unknown` with its type's name."""
    body: list[bytes] = []
    head = json.dumps(_pack(message, body, 0)).encode()
    size = sum(map(len, body))
    if len(head) > HEAD_LIMIT or size > BODY_LIMIT:
        raise WireError(f"too large: {len(head):,} bytes of text, {size:,} of numbers")
    return _LENGTHS.pack(len(head), size) + head + b"".join(body)


def _pack(x: Any, body: list[bytes], depth: int) -> Any:
    if depth > DEPTH_LIMIT:
        return {"unknown": "deeply nested"}
    kind = type(x)  # exactly: a subclass may behave in any way
    if x is None or kind in (bool, str):
        return x
    if x is Ellipsis:
        return None
    if kind is int:
        return x if abs(x) < 2**63 else {"unknown": "int beyond 64 bits"}
    if kind is float:
        return x if math.isfinite(x) else {"float": repr(x)}
    if kind in (torch.Tensor, torch.nn.Parameter):
        tensor = x.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        return _pack_array(tensor.contiguous().numpy(), "tensor", body)
    if kind is np.ndarray:
        return _pack_array(x, "array", body)
    if isinstance(x, np.generic):
        return _pack_array(np.asarray(x), "number", body)
    if kind in (list, tuple) or (isinstance(x, tuple) and hasattr(x, "_fields")):
        return [_pack(part, body, depth + 1) for part in x]
    if kind is dict:
        return {"dict": [[str(k), _pack(v, body, depth + 1)] for k, v in x.items()]}
    return {"unknown": kind.__name__[:60]}


def _pack_array(x: np.ndarray, what: str, body: list[bytes]) -> Any:
    if x.dtype.name not in _DTYPES:
        return {"unknown": f"{what} of {x.dtype.name[:40]}"}
    if x.nbytes > BODY_LIMIT:
        raise WireError(f"too large: an answer of {x.nbytes >> 20} MiB")
    body.append(np.ascontiguousarray(x).tobytes())
    return {what: x.dtype.name, "shape": list(x.shape)}


def decode(head: bytes, body: bytes) -> Any:
    """The value of a frame; WireError if it is none."""
    try:
        packed = json.loads(head)
        reader = _Reader(body)
        value = reader.unpack(packed, 0)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise WireError(f"no message: {type(error).__name__}") from error
    if reader.position != len(body):
        raise WireError("no message: bytes left over")
    return value


class _Reader:
    def __init__(self, body: bytes):
        self.body, self.position, self.items = body, 0, 0

    def unpack(self, x: Any, depth: int) -> Any:
        self.items += 1
        if depth > DEPTH_LIMIT + 1 or self.items > ITEM_LIMIT:
            raise ValueError("too deep or too many")
        if x is None or type(x) in (bool, int, float, str):
            return x
        if type(x) is list:
            return [self.unpack(part, depth + 1) for part in x]
        if set(x) == {"dict"}:
            return {str(key): self.unpack(part, depth + 1) for key, part in x["dict"]}
        if set(x) == {"float"}:
            return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[x["float"]]
        if set(x) == {"unknown"}:
            return Unknown(str(x["unknown"])[:60])
        for what in ("tensor", "array", "number"):
            if set(x) == {what, "shape"}:
                return self._array(what, x[what], x["shape"])
        raise ValueError("an unknown kind of value")

    def _array(self, what: str, name: str, shape: list[int]) -> Any:
        if name not in _DTYPES or type(shape) is not list or len(shape) > 8:
            raise ValueError("no array")
        if any(type(size) is not int or not 0 <= size < 2**40 for size in shape):
            raise ValueError("no shape")
        dtype = np.dtype(name)
        size = math.prod(shape) * dtype.itemsize
        if size > len(self.body) - self.position:
            raise ValueError("the array's bytes are missing")
        raw = self.body[self.position : self.position + size]
        self.position += size
        array = np.frombuffer(raw, dtype).reshape(shape).copy()
        if name == "bool":  # any byte but 0 and 1 is no truth value
            array = np.asarray(np.frombuffer(raw, np.uint8).reshape(shape) != 0)
        if what == "tensor":
            return torch.from_numpy(array)
        return array[()] if what == "number" and array.ndim == 0 else array


# ---------------------------------------------------------------------------------------------
# Frames <-> sockets


def send(sock: socket.socket, message: Any, deadline: float | None = None) -> None:
    """Write one frame. ``deadline`` is a time of ``time.monotonic``."""
    data = memoryview(encode(message))
    while data:
        _wait(sock, deadline, write=True)
        try:
            data = data[sock.send(data, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            continue
        except OSError as error:
            raise WireClosed(str(error)) from error


def receive(
    sock: socket.socket, deadline: float | None = None, also: Callable[[], None] | None = None
) -> Any:
    """Read one frame. ``also`` is called while waiting, a few times a second."""
    size, extra = _LENGTHS.unpack(_exactly(sock, _LENGTHS.size, deadline, also))
    if size > HEAD_LIMIT or extra > BODY_LIMIT:
        raise WireError(f"a message of {size + extra:,} bytes")
    head = _exactly(sock, size, deadline, also)
    return decode(head, _exactly(sock, extra, deadline, also))


def _exactly(
    sock: socket.socket, size: int, deadline: float | None, also: Callable[[], None] | None
) -> bytes:
    data = bytearray()
    while len(data) < size:
        _wait(sock, deadline, also=also)
        try:
            part = sock.recv(min(size - len(data), 1 << 20), socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        except OSError as error:
            raise WireClosed(str(error)) from error
        if not part:
            raise WireClosed("the connection is closed")
        data += part
    return bytes(data)


def _wait(
    sock: socket.socket, deadline: float | None, write: bool = False,
    also: Callable[[], None] | None = None,
) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLOUT if write else select.POLLIN)
    while True:
        left = math.inf if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise WireTimeout("no answer in time")
        if also is not None:
            also()
        if poll.poll(min(left, 0.1 if also is not None else 3600) * 1000):
            return
