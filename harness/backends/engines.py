"""The engines of one model in one worker: built when first asked for, kept, run, and freed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.backends.plan import Timing
from harness.environments import SecondBuilder, Supervisor
from harness.errors import CandidateError, InputDataError, WorkerCrashedError, WorkerTimeoutError
from harness.model import Model, save_model
from harness.tensors import dtype_name, dtype_of
from harness.worker import protocol

Tensors = Mapping[str, np.ndarray]

_KEPT_MODEL_FILES = 3
_MOST_ENGINES = 512
#: What freeing other engines may cure.
_LACKS_MEMORY = ("out_of_memory", "no_context")
_RUNS_NOTHING = ("no_context", "not_started")
_numbers = itertools.count()


class BuildRefused(Exception):
    """An engine was not built, or runs nothing. `kind` is one of the worker's faults, `crashed` or `timed_out`.

    `marks` are those to blame, `nodes` those that the parser refuses.
    """

    def __init__(
        self, kind: str, error: CandidateError, marks: Sequence[str] = (), nodes: Sequence[str] = ()
    ) -> None:
        super().__init__(str(error))
        self.kind = kind
        self.error = error
        self.marks = tuple(marks)
        self.nodes = tuple(nodes)


@dataclass
class Engine:
    """An engine in the worker. Its times are added to its facts when it is first timed."""

    id: str
    facts: protocol.EngineFacts
    generation: int
    counted: bool = True
    """Whether it is among the builds: one that was begun is when it is first asked for."""
    ran: bool = False
    """Whether it has run: what goes wrong before does so because nothing can be run in it."""


#: How long a build that begins may wait for its worker before whoever began it goes on, and may be faster.
_TURN_SECONDS = 0.2


@dataclass(frozen=True)
class _Begun:
    """A build under way: of which engine, in which life of the worker, and what comes of it."""

    key: tuple[str, str]
    generation: int
    reply: Future[protocol.BuildReply | protocol.Error]


class EngineStore:
    """Engines by their requests.

    One thread uses it. A build that was begun goes on beside what that thread does.

    Args:
        supervisor: the worker; when it is replaced, its engines are gone and are built again.
        capacity: how many engines to keep; the one that was not used for longest goes first.
    """

    def __init__(self, supervisor: Supervisor, *, capacity: int = 8) -> None:
        self.supervisor = supervisor
        self.builds = 0
        """How many engines were built so far, of those that were asked for."""
        self._capacity = capacity
        self._engines: OrderedDict[tuple[str, str], Engine] = OrderedDict()
        self._files: OrderedDict[str, Path] = OrderedDict()
        self._folder_name = f"engines-{next(_numbers)}"
        self._generation = -1
        self._begun: _Begun | None = None
        self._second: SecondBuilder | None = None

    def get(self, model: Model, request: protocol.BuildRequest) -> Engine:
        """The engine of `model` that `request` describes; its `model_path` is filled in here.

        Raises:
            BuildRefused: there is none.
            CandidateError: the worker does not start.
        """
        key = _key(model, request)
        begun = self._wait(key)
        self._renew()
        reply = None if begun is None else self._adopt(begun, key)
        if key in self._engines:
            self._engines.move_to_end(key)
            engine = self._engines[key]
            self.builds += not engine.counted
            engine.counted = True
            return engine
        return self._keep(key, self._build(model, request, key, reply))

    def begin(
        self, model: Model, request: protocol.BuildRequest, on_built: Callable[[protocol.EngineFacts], None]
    ) -> bool:
        """Build an engine in the background; `get` waits for it. Nothing is begun while another build is under way.

        `on_built` gets what is known of it before anybody else can ask the worker.

        Returns:
            Whether there is an engine that was begun and nobody has asked for yet, this one or another: its worker may
            still be at work on it, also where it has replied.

        Raises:
            CandidateError: the worker does not start.
        """
        key = _key(model, request)
        if self._begun is not None and (self._begun.key == key or not self._begun.reply.done()):
            return True  # without asking for the worker, which is at work
        before = self._wait()
        self._renew()
        if before is not None:
            self._adopt(before, ("", ""))
        if key in self._engines:
            return False
        located = self._located(model, request)
        begun = self._begun = _Begun(key, self._generation, Future())
        load = self._loader(key)
        taken = threading.Event()

        def build() -> None:
            try:
                with self.supervisor.turn():
                    taken.set()
                    reply = load(located) or self._ask(located)
                    if isinstance(reply, protocol.BuildReply):
                        on_built(reply.facts)
                begun.reply.set_result(reply)
            except BaseException as error:  # `get` raises it
                begun.reply.set_exception(error)

        threading.Thread(target=build, name="build ahead", daemon=True).start()
        taken.wait(_TURN_SECONDS)
        return True

    def start_second(self) -> None:
        """Start a second worker for `prebuild`. It ends with that build, the next one in the first, or this store."""
        if self._second is None:
            self._second = SecondBuilder(self.supervisor)

    def prebuild(self, model: Model, request: protocol.BuildRequest) -> None:
        """Build an engine in the second worker, if there is one; `begin` and `get` load it.

        For an engine that is asked for when that is done which the worker is at work on, and not before.

        Raises:
            CandidateError: the worker does not start, or the disk is full.
        """
        key = _key(model, request)
        known = key in self._engines or (self._begun is not None and self._begun.key == key)
        if self._second is not None and not known:
            path = self._folder() / f"prebuilt-{next(_numbers)}"
            self._second.build(key, self._located(model, request), path)

    def _loader(self, key: tuple[str, str]) -> Callable[[protocol.BuildRequest], protocol.BuildReply | None]:
        """Loads what the second worker has built for `key`, or gives None: build it. It ends the second worker.

        It waits for it twice as long as a build took in the first: one that has begun mostly ends soon.
        """
        second, self._second = self._second, None
        longest = 2 * max((engine.facts.build_seconds or 0.0 for engine in self._engines.values()), default=0)

        def load(located: protocol.BuildRequest) -> protocol.BuildReply | None:
            prebuilt = None if second is None else second.take(key, longest)
            if prebuilt is not None:
                with contextlib.suppress(CandidateError, OSError):
                    reply = self.supervisor.ask(replace(located, prebuilt_path=str(prebuilt.path)))
                    prebuilt.path.unlink()
                    if isinstance(reply, protocol.BuildReply):
                        return replace(reply, facts=replace(reply.facts, build_seconds=prebuilt.seconds))
            return None

        return load

    def run(
        self, engine: Engine, feeds: Tensors, timing: Timing, *, debug: bool = False
    ) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """The tensors that `engine` computes, and warnings. What is timed is added to the facts of `engine`.

        With `debug` its debug tensors are among them.

        The arrays are memory maps of a file that is deleted already: they need no copy and leave nothing.

        Raises:
            BuildRefused: nothing can be run in this engine.
            CandidateError: the inference or the worker failed.
            InputDataError: an input cannot be handed over.
        """
        untimed = engine.facts.latency is None and timing.repeats > 0
        with self._files_for_inference() as (inputs, outputs):
            with _reporting_full_disk(inputs.parent):
                protocol.write_tensor_file(
                    str(inputs), {name: to_wire(name, array) for name, array in feeds.items()}
                )
            request = protocol.InferRequest(
                engine_id=engine.id,
                inputs_path=str(inputs),
                outputs_path=str(outputs),
                warmup=timing.warmup,
                repeats=timing.repeats if untimed else 0,
                profile=untimed and timing.layers,
                debug=debug,
            )
            reply = self._infer(engine, request)
            if isinstance(reply, protocol.Error) and reply.kind in _LACKS_MEMORY:
                self._release_all(but=engine)
                reply = self._infer(engine, request)
            if isinstance(reply, protocol.Error):
                refusal = self.supervisor.refusal(request, reply)
                runs_nothing = reply.kind in _RUNS_NOTHING or (reply.kind == "cuda_error" and not engine.ran)
                raise BuildRefused(reply.kind, refusal) if runs_nothing else refusal
            engine.ran = True
            tensors = {
                name: from_wire(tensor)
                for name, tensor in protocol.read_tensor_file(reply.outputs_path).items()
            }
        if untimed:
            engine.facts = replace(engine.facts, latency=reply.latency, layer_ms=reply.layer_ms)
        return tensors, reply.warnings

    def _infer(self, engine: Engine, request: protocol.InferRequest) -> protocol.InferReply | protocol.Error:
        try:
            return self.supervisor.ask(request)
        except WorkerCrashedError as error:  # where its kernels were compiled
            if engine.ran:
                raise
            raise BuildRefused("crashed", error) from error

    def reserve(self, count: int) -> None:
        """Keep at least `count` engines: those that one evaluation needs are needed for the next sample too."""
        self._capacity = max(self._capacity, min(count, _MOST_ENGINES))

    def write_tensors(self, name: str, tensors: Tensors) -> Path:
        """A tensor file in the worker's folder, called `name`; written once in the life of a worker."""
        self._renew()
        with _reporting_full_disk(self.supervisor.worker().folder):
            path = self._folder() / name
            if not path.exists():
                protocol.write_tensor_file(
                    str(path), {key: to_wire(key, array) for key, array in tensors.items()}
                )
        return path

    def close(self) -> None:
        """Free the engines and the model files, when a build that was begun has ended. The worker stays."""
        if self._second is not None:
            self._second.end()
            self._second = None
        if (begun := self._wait()) is not None:
            self._adopt(begun, ("", ""))
        if self._generation == self.supervisor.generation and self.supervisor.running:
            self._release_all()
            shutil.rmtree(self.supervisor.worker().folder / self._folder_name, ignore_errors=True)
        self._engines.clear()
        self._files.clear()

    def _renew(self) -> None:
        """Make sure that there is a worker, and forget what its predecessor held."""
        self.supervisor.worker()
        if self._generation != self.supervisor.generation:
            self._engines.clear()
            self._files.clear()
            self._generation = self.supervisor.generation

    def _wait(self, key: tuple[str, str] | None = None) -> _Begun | None:
        """The build that was begun, when it has ended; None if there is none, or it failed and is not of `key`.

        Raises:
            BuildRefused: it is of `key`, and took its worker with it.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        try:
            begun.reply.result()
        except BaseException:
            ended = begun.reply.done()
            if not ended:  # interrupted, and nobody will ask again
                self.supervisor.abort()
            if begun.key == key or not ended:
                raise
            return None
        return begun

    def _adopt(self, begun: _Begun, key: tuple[str, str]) -> protocol.BuildReply | protocol.Error | None:
        """The reply to a build that was begun, if it is of `key`; an engine that nobody asked for yet is kept."""
        reply = begun.reply.result()
        if begun.generation != self._generation:
            return None
        if begun.key == key:  # what lacked memory beside other models' engines may have it now
            return None if isinstance(reply, protocol.Error) and reply.kind in _LACKS_MEMORY else reply
        if isinstance(reply, protocol.BuildReply):
            self._keep(begun.key, Engine(reply.engine_id, reply.facts, begun.generation, counted=False))
        return None

    def _keep(self, key: tuple[str, str], engine: Engine) -> Engine:
        self._engines[key] = engine
        while len(self._engines) > self._capacity:
            self._release(next(iter(self._engines)))
        return engine

    def _located(self, model: Model, request: protocol.BuildRequest) -> protocol.BuildRequest:
        with _reporting_full_disk(self.supervisor.worker().folder):
            return replace(request, model_path=str(self._model_file(model)))

    def _build(
        self,
        model: Model,
        request: protocol.BuildRequest,
        key: tuple[str, str],
        reply: protocol.BuildReply | protocol.Error | None,
    ) -> Engine:
        """Build an engine, if `reply` is not what came of that already."""
        request = self._located(model, request)
        if reply is None and (reply := self._loader(key)(request)) is None:
            self._renew()  # loading may have ended the worker
            request = self._located(model, request)
            reply = self._ask(request)
        if isinstance(reply, protocol.Error) and reply.kind in _LACKS_MEMORY and self._engines:
            self._release_all()
            reply = self._ask(request)
        if isinstance(reply, protocol.Error):
            raise BuildRefused(reply.kind, self.supervisor.refusal(request, reply), reply.marks, reply.nodes)
        self.builds += 1
        return Engine(reply.engine_id, reply.facts, self._generation)

    def _ask(self, request: protocol.BuildRequest) -> protocol.BuildReply | protocol.Error:
        try:
            reply: protocol.BuildReply | protocol.Error = self.supervisor.ask(request)
            return reply
        except WorkerCrashedError as error:
            raise BuildRefused("crashed", error) from error
        except WorkerTimeoutError as error:
            raise BuildRefused("timed_out", error) from error

    def _model_file(self, model: Model) -> Path:
        """The file of `model`; only the last few are kept, since a search by prefixes makes hundreds."""
        if model.sha256 not in self._files:
            name = re.sub(r"[^\w.-]+", "_", model.name)[:60]
            path = self._folder() / model.sha256[:16] / f"{name}.onnx"
            self._files[model.sha256] = save_model(model, path)
        self._files.move_to_end(model.sha256)
        while len(self._files) > _KEPT_MODEL_FILES:
            shutil.rmtree(self._files.popitem(last=False)[1].parent, ignore_errors=True)
        return self._files[model.sha256]

    def _folder(self) -> Path:
        """Where this store's files are: beside those of other models in the same worker."""
        folder = self.supervisor.worker().folder / self._folder_name
        folder.mkdir(exist_ok=True)
        return folder

    def _release(self, key: tuple[str, str]) -> None:
        engine = self._engines.pop(key)
        if engine.generation == self.supervisor.generation and self.supervisor.running:
            with contextlib.suppress(CandidateError):  # a worker that cannot even do this is replaced
                self.supervisor.call(protocol.Release(engine.id))

    def _release_all(self, but: Engine | None = None) -> None:
        for key in [key for key, engine in self._engines.items() if engine is not but]:
            self._release(key)

    @contextlib.contextmanager
    def _files_for_inference(self) -> Iterator[tuple[Path, Path]]:
        number = next(_numbers)
        inputs, outputs = self._folder() / f"in-{number}", self._folder() / f"out-{number}"
        try:
            yield inputs, outputs
        finally:
            inputs.unlink(missing_ok=True)
            outputs.unlink(missing_ok=True)


def _key(model: Model, request: protocol.BuildRequest) -> tuple[str, str]:
    return (model.sha256, repr(replace(request, model_path="", nodes=())))  # the model has the nodes


def to_wire(name: str, array: np.ndarray) -> protocol.Tensor:
    """`array` as it travels: dtypes that NumPy lacks as unsigned integers.

    Raises:
        InputDataError: workers know no such dtype.
    """
    kind = dtype_name(array.dtype)
    if kind not in protocol.STORAGE:
        raise InputDataError(f"input {name!r} is {kind}, which TensorRT does not accept as an input")
    native = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return protocol.Tensor(native.view(protocol.STORAGE[kind]), kind)


def from_wire(tensor: protocol.Tensor) -> np.ndarray:
    """The array that travelled, with its real dtype."""
    return tensor.array.view(dtype_of(tensor.dtype))


@contextlib.contextmanager
def _reporting_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CandidateError(
            "no space is left for models and tensors",
            where=folder,
            hint="free some, or point HARNESS_SCRATCH at a larger folder",
        ) from error
