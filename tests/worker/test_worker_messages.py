"""Messages survive the wire, and whatever is no message is refused with its reason."""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.case import BuildOptions
from harness.compiler import builder_options
from harness.worker import protocol
from harness.worker.protocol import messages, wire

TEXT = st.text(max_size=8)
KINDS = [
    kind for kind in vars(messages).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)
]
MESSAGES = [kind for kind in KINDS if kind.__name__ in messages._TYPES]


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field with this type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union:
        return st.one_of(st.none() if each is type(None) else values(each) for each in arguments)
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(TEXT, values(arguments[1]), max_size=3)
    if dataclasses.is_dataclass(hint):
        return instances(hint)
    if hint is Any:
        return st.none() | st.integers() | TEXT | st.booleans() | st.lists(st.integers(), max_size=2)
    return {str: TEXT, int: st.integers(), bool: st.booleans(), float: st.floats(allow_nan=False)}[hint]


@functools.cache
def instances(kind: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{field.name: values(hints[field.name]) for field in dataclasses.fields(kind)})


@given(
    message=st.sampled_from(MESSAGES).flatmap(instances), number=st.integers(0, 2**40), cut=st.integers(1, 50)
)
def test_every_message_survives_the_wire_in_pieces_of_any_size(message: Any, number: int, cut: int) -> None:
    frame = protocol.pack_frame(number, message)
    reader = protocol.FrameReader()
    found = [item for at in range(0, len(frame), cut) for item in reader.feed(frame[at : at + cut])]
    assert found == [(number, message)]


@given(
    message=st.sampled_from(MESSAGES).flatmap(instances),
    position=st.integers(0, 10**6),
    bit=st.integers(0, 7),
)
def test_no_flipped_bit_is_taken_for_a_message(message: Any, position: int, bit: int) -> None:
    frame = bytearray(protocol.pack_frame(1, message))
    frame[position % len(frame)] ^= 1 << bit
    reader = protocol.FrameReader()
    try:
        found = reader.feed(bytes(frame))
    except protocol.WireError:
        return
    # The padding is not covered; a length that grew waits for more bytes than there are.
    assert found == [(1, message)] or not found


@given(st.binary(min_size=16, max_size=200))
def test_garbage_is_refused_at_once(data: bytes) -> None:
    if data[:4] == wire.MAGIC:
        return
    with pytest.raises(protocol.WireError, match="no message begins with"):
        protocol.FrameReader().feed(data)


def test_two_frames_in_one_read_are_two_messages() -> None:
    frames = protocol.pack_frame(1, protocol.Ping()) + protocol.pack_frame(2, protocol.Probe())
    assert protocol.FrameReader().feed(frames) == [(1, protocol.Ping()), (2, protocol.Probe())]


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "PROTOCOL", protocol.PROTOCOL + 1)
    frame = protocol.pack_frame(1, protocol.Ping())
    monkeypatch.undo()
    with pytest.raises(protocol.WireError, match=f"speaks protocol {protocol.PROTOCOL + 1}"):
        protocol.FrameReader().feed(frame)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "a message is a JSON object, not list"),
        ({"type": "Nonsense"}, "no message is called 'Nonsense'"),
        ({}, "no message is called None"),
        ({"type": "Release"}, "Release lacks engine_id"),
        ({"type": "Release", "engine_id": 3}, "Release.engine_id must be str, not 3"),
        ({"type": "Release", "engine_id": "a", "engin": 1}, "Release has no field engin"),
        ({"type": "Done", "cache_refused": 1}, "Done.cache_refused must be bool"),
        (
            {"type": "InferRequest", "engine_id": "", "inputs_path": "", "outputs_path": "", "warmup": True},
            "int",
        ),
        ({"type": "Done", "warnings": "abc"}, "Done.warnings must be an array"),
        (
            {"type": "BuildRequest", "model_path": "m", "precision": "fp16", "profiles": {"x": [[1], [2]]}},
            "must have 3 items, not 2",
        ),
        (
            {"type": "BuildRequest", "model_path": "m", "precision": "fp16", "nodes": [{"name": "n"}]},
            "BuildRequest.nodes lacks op, outputs",
        ),
        (
            {"type": "BuildRequest", "model_path": "m", "precision": "fp16", "options": {"work_space": 3}},
            "BuildRequest.options has no field work_space",
        ),
    ],
)
def test_bytes_that_are_not_a_message_are_refused_with_the_reason(document: Any, said: str) -> None:
    with pytest.raises(protocol.MessageError, match=said.replace("(", r"\(")):
        protocol.message_from_json(document)


def test_json_of_a_message_is_plain() -> None:
    request = protocol.BuildRequest("m", "fp16", nodes=(protocol.NodeHint("n", "Add", ("t",)),), marks=("t",))
    assert protocol.message_from_json(json.loads(json.dumps(protocol.message_to_json(request)))) == request


def test_the_builder_gets_every_option_of_a_case() -> None:
    got = {field.name for field in dataclasses.fields(protocol.BuilderOptions)}
    assert got == BuildOptions.model_fields.keys() - {"typing", "pins"}
    given = {"tactic_sources": ["cublas"], "preview_features": ["+profile_sharing_0806"], "workspace_mib": 64}
    plain = protocol.BuilderOptions(
        tactic_sources=("cublas",), preview_features=("+profile_sharing_0806",), workspace_mib=64
    )
    assert builder_options(BuildOptions.model_validate(given)) == plain
    assert builder_options(BuildOptions()) == protocol.BuilderOptions(), "a default is the same on both sides"


def test_every_request_has_a_reply() -> None:
    assert set(protocol.REPLIES) == set(typing.get_args(protocol.Request))
    for kind, reply in protocol.REPLIES.items():
        (named,) = typing.get_args(kind.__orig_bases__[0])
        assert named.__forward_arg__ == reply.__name__
    assert set(protocol.REPLIES.values()) < set(typing.get_args(protocol.Reply))
    assert {kind.__name__ for kind in MESSAGES} == set(messages._TYPES)


def test_a_fault_knows_whether_the_worker_can_be_trusted() -> None:
    assert protocol.Fault("cuda_error", "x").fatal
    assert not protocol.Fault("build_failed", "x").fatal
    assert protocol.Fault("build_failed", "x", fatal=True).fatal
    with pytest.raises(ValueError, match="is not a kind of fault"):
        protocol.Fault("bad_luck", "x")
