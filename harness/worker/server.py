"""Carry out requests, one after the other, with one adapter; every request gets its reply."""

import contextlib
import errno
import os
import socket
import sys
import traceback
from importlib.util import find_spec
from typing import Any, Callable, Dict, Optional, Tuple, Type

from . import protocol

try:
    from typing import Protocol
except ImportError:  # pragma: no cover
    raise SystemExit("the worker needs Python 3.8 or later, this is " + sys.version) from None

Log = Callable[[str], None]


class Adapter(Protocol):
    """What turns requests into TensorRT calls. Each method raises `protocol.Fault` for what goes wrong.

    One that has no caches, and does nothing late, need not override what is said of them.
    """

    def probe(self, request: protocol.Probe) -> protocol.ProbeReply:
        """Say what this environment is and can do."""

    def build(self, request: protocol.BuildRequest) -> protocol.BuildReply:
        """Build an engine and keep it."""

    def compile(self, request: protocol.Compile) -> protocol.CompileReply:
        """Say what becomes of a model, without keeping an engine."""

    def infer(self, request: protocol.InferRequest) -> protocol.InferReply:
        """Run an engine and write its tensors."""

    def release(self, engine_id: str) -> None:
        """Free an engine, if there is one of that name."""

    def settle(self) -> None:
        """Do what was left for later, when the reply to a build has been sent."""

    def save_cache(self, kind: str, path: str) -> None:
        """Write a cache, atomically; that of compiled kernels is asked only of those with the capability."""

    def load_cache(self, kind: str, path: str) -> bool:
        """Take a cache; False if TensorRT refuses it at once."""
        return True

    def close(self) -> None:
        """Free everything."""


class Server:
    """One channel, one adapter, which is made when the host has its `Hello`: that does not wait for TensorRT."""

    def __init__(self, channel: socket.socket, make_adapter: Callable[[Log], Adapter], log: Log) -> None:
        self._channel = channel
        self._make_adapter = make_adapter
        self._log = log
        self._adapter: Optional[Adapter] = None
        self._reader = protocol.FrameReader()

    def run(self) -> None:
        """Introduce the worker and answer requests until `Shutdown` or the end of the channel."""
        self.send(0, protocol.Hello(os.getpid(), installed_product()))
        with contextlib.suppress(Exception):  # what is wrong is the answer to the host's own probe
            self.adapter.probe(protocol.Probe())  # loads TensorRT, while the host is busy with itself
        while True:
            data = self._channel.recv(1 << 16)
            if not data:
                return
            for number, request in self._reader.feed(data):
                reply = self.answer(request)
                self.send(number, reply)
                if isinstance(reply, protocol.BuildReply):
                    self.adapter.settle()
                if isinstance(request, protocol.Shutdown):
                    return

    def send(self, number: int, message: protocol.Message) -> None:
        """Send one frame."""
        self._channel.sendall(protocol.pack_frame(number, message))

    def answer(self, request: Any) -> protocol.Reply:
        """The reply to a request: never an exception, but for the end of the process."""
        try:
            return self._carry_out(request)
        except protocol.Fault as fault:
            return protocol.Error(
                fault.kind, fault.message, fault.evidence, fault.fatal, fault.marks, fault.nodes
            )
        except MemoryError:
            return protocol.Error("out_of_memory", "the worker ran out of memory", _trace(), fatal=True)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                return protocol.Error("disk_full", _full(error), _trace())
            return protocol.Error(
                "internal", "{}: {}".format(type(error).__name__, error), _trace(), fatal=True
            )

    def _carry_out(self, request: Any) -> protocol.Reply:
        handlers: Dict[Type[Any], Callable[[Any], protocol.Reply]] = {
            protocol.Ping: lambda _: protocol.Done(),
            protocol.Shutdown: self._shut_down,
            protocol.Probe: lambda request: self.adapter.probe(request),
            protocol.BuildRequest: lambda request: self.adapter.build(request),
            protocol.Compile: lambda request: self.adapter.compile(request),
            protocol.InferRequest: lambda request: self.adapter.infer(request),
            protocol.Release: self._release,
            protocol.SaveCache: self._save_cache,
            protocol.LoadCache: self._load_cache,
        }
        handler = handlers.get(type(request))
        if handler is None:
            raise protocol.Fault("bad_request", "{} is not a request".format(type(request).__name__))
        return handler(request)

    @property
    def adapter(self) -> Adapter:
        """The adapter, made when it is first needed.

        Raises:
            protocol.Fault: it cannot be made: TensorRT does not load, there is no GPU.
        """
        if self._adapter is None:
            try:
                self._adapter = self._make_adapter(self._log)
            except (ImportError, OSError) as error:
                message = "TensorRT cannot be loaded: {}".format(error)
                if not isinstance(error, ModuleNotFoundError):
                    message += ". Install the bindings and the libraries of one release, in an environment of their own"
                raise protocol.Fault("environment", message, evidence=_trace()) from error
        return self._adapter

    def _release(self, request: protocol.Release) -> protocol.Reply:
        self.adapter.release(request.engine_id)
        return protocol.Done()

    def _save_cache(self, request: protocol.SaveCache) -> protocol.Reply:
        self.adapter.save_cache(request.kind, request.path)
        return protocol.Done()

    def _load_cache(self, request: protocol.LoadCache) -> protocol.Reply:
        return protocol.Done(cache_refused=not self.adapter.load_cache(request.kind, request.path))

    def _shut_down(self, _request: protocol.Shutdown) -> protocol.Reply:
        if self._adapter is not None:
            self._adapter.close()
        return protocol.Done()


def installed_product() -> Optional[str]:
    """The product that this Python has, by its module, which is not imported: TensorRT, if it has both."""
    modules = {product: package.replace("-", "_") for product, package in protocol.PACKAGE_OF.items()}
    return next((product for product, module in modules.items() if find_spec(module) is not None), None)


def _full(error: OSError) -> str:
    where = "" if error.filename is None else " at {}".format(error.filename)
    return "no space is left{}: free some, or point HARNESS_SCRATCH at a larger folder".format(where)


def _trace() -> Tuple[str, ...]:
    return tuple(traceback.format_exc().rstrip().splitlines()[-20:])
