"""Messages on the socket between harness and the process that calls its users' functions: JSON, and arrays as they are.

A frame is a mark, a number of lengths, the JSON document, and the bytes of each array in it. Nothing is pickled: what
arrives is a message with numbers, texts, lists, dictionaries, arrays, bytes and places in files, whoever wrote it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.case.functions.messages import Filter, Reply, Request
from harness.errors import HarnessError, Place
from harness.tensors import dtype_of, from_json

M = TypeVar("M", Request, Reply)

_KEY = "harness"
"""Of a dictionary that stands for something else than itself."""
_MARK = b"harness\n"
"""How a frame begins, so that what somebody else wrote on the socket is not taken for one."""
_MOST = 1 << 24
"""Bytes that are asked of the socket at once."""
_TYPED = {kind.__name__: kind for kind in (Filter, Place, *Request.__subclasses__(), *Reply.__subclasses__())}
"""The dataclasses that a frame carries."""


class FrameError(Exception):
    """What came is no frame."""


Frame = list[bytes | memoryview]


def frame_of(message: Request | Reply) -> Frame:
    """A message as one frame, in pieces.

    Raises:
        TypeError: it holds something that a frame does not carry.
    """
    blocks: list[np.ndarray | bytes] = []
    document = json.dumps(_packed(message, blocks)).encode()
    buffers = [memoryview(document), *(_buffer(block) for block in blocks)]
    sizes = struct.pack(f"<Q{len(buffers)}Q", len(buffers), *(len(each) for each in buffers))
    return [_MARK + sizes, *buffers]


def send(line: socket.socket, frame: Frame) -> None:
    """Write a frame; nobody else may write meanwhile.

    Raises:
        OSError: the other end is gone.
    """
    for each in frame:
        line.sendall(each)


def receive(line: socket.socket, kind: type[M], wait: Callable[[], None] = lambda: None) -> M:
    """Read the message of one frame; `wait` is called before each read, and returns when there is something to read.

    Raises:
        EOFError: the other end is gone.
        FrameError: what came is no frame.
    """
    mark, count = struct.unpack("<8sQ", _exactly(line, 16, wait))
    if mark != _MARK:
        raise FrameError(f"{bytes(mark)!r} is no beginning of a frame")
    sizes = struct.unpack(f"<{count}Q", _exactly(line, 8 * count, wait))
    document, *blocks = [_exactly(line, size, wait) for size in sizes]
    try:
        message = _unpacked(json.loads(bytes(document)), blocks)
    except (ValueError, LookupError, TypeError, HarnessError) as error:
        raise FrameError(f"{type(error).__name__}: {error}") from error
    if not isinstance(message, kind):
        raise FrameError(f"{type(message).__name__} is no message here")
    return message


def send_stderr(line: socket.socket) -> None:
    """Lend the other end the stderr of this process, as it is now."""
    try:
        socket.send_fds(line, [b"2"], [2])
    except ConnectionError:
        raise
    except OSError:  # it is closed
        line.sendall(b"2")


def take_stderr(line: socket.socket) -> None:
    """Write stdout and stderr to what `send_stderr` lends; stdout belongs to the document that a command prints.

    Raises:
        EOFError: the other end is gone.
    """
    told, lent, *_ = socket.recv_fds(line, 1, 1)
    if not told:
        raise EOFError
    for each in lent:
        os.dup2(each, 1)
        os.dup2(each, 2)
        os.close(each)


def _exactly(line: socket.socket, size: int, wait: Callable[[], None]) -> bytearray:
    found = bytearray(size)
    view, place = memoryview(found), 0
    while place < size:
        wait()
        read = line.recv_into(view[place : place + _MOST])
        if not read:
            raise EOFError
        place += read
    return found


def _buffer(block: np.ndarray | bytes) -> memoryview:
    if isinstance(block, bytes):
        return memoryview(block)
    return memoryview(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)


def _packed(value: Any, blocks: list[np.ndarray | bytes]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSUMm":
        raise TypeError(f"an array of {value.dtype}")
    if isinstance(value, (np.ndarray, bytes)):
        blocks.append(value)
        about = None if isinstance(value, bytes) else [value.dtype.newbyteorder("=").name, list(value.shape)]
        if isinstance(value, np.ndarray) and not value.dtype.isnative:
            blocks[-1] = value.astype(value.dtype.newbyteorder("="))
        return {_KEY: ["block", len(blocks) - 1, about]}
    if isinstance(value, Filter | Place | Request | Reply):
        return {
            _KEY: [type(value).__name__, {name: _packed(each, blocks) for name, each in vars(value).items()}]
        }
    if isinstance(value, Path):
        return {_KEY: ["path", str(value)]}
    if isinstance(value, Mapping):
        return {_KEY: ["dict", [[key, _packed(each, blocks)] for key, each in value.items()]]}
    if isinstance(value, (list, tuple)):
        return [_packed(each, blocks) for each in value]
    return value


def _unpacked(value: Any, blocks: list[bytearray]) -> Any:
    if isinstance(value, list):
        return [_unpacked(each, blocks) for each in value]
    if not isinstance(value, dict):
        return value
    kind, *about = value[_KEY]
    if kind in _TYPED:
        return from_json(_TYPED[kind], {key: _unpacked(each, blocks) for key, each in about[0].items()})
    if kind == "path":
        return Path(about[0])
    if kind == "dict":
        return {key: _unpacked(each, blocks) for key, each in about[0]}
    block, array = blocks[about[0]], about[1]
    if array is None:
        return bytes(block)
    # What crosses between two operators of the user's own may be complex, which no tensor that harness judges is.
    dtype = np.dtype(array[0]) if array[0].startswith("complex") else dtype_of(array[0])
    return np.frombuffer(block, dtype).reshape(array[1])
