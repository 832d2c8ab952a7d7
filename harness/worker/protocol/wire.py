"""How messages travel: over a Unix socket, each in a frame that says whose it is, how long it is and its checksum.

A frame is the magic `HRNS`, the protocol version (uint16), two zero bytes, the payload's length and its
CRC-32 (uint32 each), all big endian, and the payload: `{"id": n, "message": {…}}` in UTF-8. A reply has the
id of its request, `Hello` the id 0. Anything else is a `WireError`, and the channel is given up.
"""

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any, List, Tuple

from . import messages
from .codec import from_plain

MAGIC = b"HRNS"
#: No message is near this long; a length beyond it is garbage, and is not waited for.
LIMIT = 256 * 1024 * 1024
_HEADER = struct.Struct("!4sHxxII")


class WireError(ValueError):
    """What came is not a frame of this protocol."""


@dataclass(frozen=True)
class _Frame:
    id: int
    message: Any


def pack_frame(number: int, message: messages.Message) -> bytes:
    """The frame of a message.

    Raises:
        WireError: the message is too long.
    """
    payload = json.dumps(asdict(_Frame(number, messages.message_to_json(message)))).encode()
    if len(payload) > LIMIT:
        raise WireError("a message of {} bytes is beyond the limit of {}".format(len(payload), LIMIT))
    return _HEADER.pack(MAGIC, messages.PROTOCOL, len(payload), zlib.crc32(payload)) + payload


class FrameReader:
    """Takes bytes as they come and gives back whole messages."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> List[Tuple[int, messages.Message]]:
        """Take `data` and return the (id, message) pairs that are whole now.

        Raises:
            WireError: a wrong magic, version, checksum or length, or a payload that is not a message.
        """
        self._pending += data
        found: List[Tuple[int, messages.Message]] = []
        while len(self._pending) >= _HEADER.size:
            magic, protocol, length, checksum = _HEADER.unpack_from(self._pending)
            if magic != MAGIC:
                raise WireError("no message begins with {!r}".format(bytes(self._pending[:16])))
            if protocol != messages.PROTOCOL:
                raise WireError(
                    "the other side speaks protocol {}, not {}".format(protocol, messages.PROTOCOL)
                )
            if length > LIMIT:
                raise WireError("a message of {} bytes is announced".format(length))
            end = _HEADER.size + length
            if len(self._pending) < end:
                break
            payload = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            if zlib.crc32(payload) != checksum:
                raise WireError("a message of {} bytes has a wrong checksum".format(length))
            found.append(_decode(payload))
        return found


def _decode(payload: bytes) -> Tuple[int, messages.Message]:
    try:
        frame = from_plain(_Frame, json.loads(payload.decode()))
        return frame.id, messages.message_from_json(frame.message)
    except ValueError as error:  # MessageError is one
        raise WireError("not a message: {}".format(error)) from None
