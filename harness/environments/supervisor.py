"""A worker that is always there: started when it is first needed, and replaced when it fails."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from harness.environments import failures
from harness.environments.caches import CacheFile
from harness.environments.command import start_variables
from harness.environments.config import TF32_VARIABLE, Environment
from harness.environments.process import WorkerProcess
from harness.environments.turns import turns_of
from harness.errors import CandidateError, HarnessError, WorkerCrashedError
from harness.worker import protocol
from harness.worker.protocol import Answered

R = TypeVar("R")
_PROBE = protocol.Probe()
#: After so many failures to start, one after the other, the last one is all that is said.
_STARTS = 2
_SAVE_AFTER_BUILD_SECONDS = 60.0
_CACHE_SECONDS = 60.0


class Supervisor:
    """The worker of one environment, or of one of its lanes. One request at a time; threads wait for each other.

    An inference that is timed waits until no other worker of this process uses the GPU, and they wait for it.

    Args:
        environment: what to start.
        adapter: a file with another adapter than the one for TensorRT.
        keep_cache: whether caches are kept in files between workers.
    """

    def __init__(
        self, environment: Environment, *, adapter: Path | None = None, keep_cache: bool = True
    ) -> None:
        self.environment = environment
        self.generation = 0
        """How many workers there have been: engines live only as long as theirs."""
        self._adapter = adapter
        self._keep_cache = keep_cache
        self._guard = threading.RLock()
        self._process: WorkerProcess | None = None
        self._probe: protocol.ProbeReply | None = None
        self._caches: dict[str, CacheFile] = {}
        self._unsaved_seconds = 0.0
        self._has_run = False
        self._warnings: list[str] = []
        self._failed_starts: list[CandidateError] = []
        self._failed_ahead: HarnessError | None = None
        self._aborted = False
        self._product: str | None = None
        self._greeted = threading.Event()
        self._idle: threading.Timer | None = None
        self._variants: dict[tuple[tuple[str, str], ...], Supervisor] = {}
        self._second: Supervisor | None = None

    def with_variables(self, **variables: str) -> Supervisor:
        """The worker of the same environment that is started with these variables, too; it ends when this one does.

        What a library reads once, when a process starts, takes a process each way.
        """
        merged = tuple(sorted({**dict(self.environment.variables), **variables}.items()))
        with self._guard:
            if merged not in self._variants:
                changed = replace(self.environment, variables=merged)
                self._variants[merged] = Supervisor(
                    changed, adapter=self._adapter, keep_cache=self._keep_cache
                )
            return self._variants[merged]

    def second(self) -> Supervisor:
        """Another worker of the same environment, which sees no GPU; the one before ends.

        It ends with this one, in the middle of whatever it does; `abort` ends it before.
        """
        if self._second is not None:
            self._second.abort()
        variables = {**dict(self.environment.variables), "CUDA_VISIBLE_DEVICES": ""}
        environment = replace(self.environment, variables=tuple(sorted(variables.items())))
        self._second = Supervisor(environment, adapter=self._adapter, keep_cache=False)
        return self._second

    def turn(self) -> AbstractContextManager[bool]:
        """Nobody else asks this worker meanwhile; it waits for whoever does."""
        return self._guard

    @property
    def running(self) -> bool:
        """Whether there is a worker at this moment."""
        return self._running is not None

    def start_ahead(self) -> None:
        """Start the worker in the background: importing TensorRT takes seconds that the caller can use.

        The next request waits for it, and fails if it did not start.
        """
        if self.running:
            return

        def start() -> None:
            with self._guard:  # whoever waits for it finds the failure, too
                try:
                    self.probe()
                except HarnessError as error:
                    self._failed_ahead = error

        threading.Thread(target=start, name=f"start {self.environment.name}", daemon=True).start()

    def probe(self, *, fresh: bool = False) -> protocol.ProbeReply:
        """What the environment is and can do; `fresh` asks again, for the memory that is free now.

        Raises:
            CandidateError: the worker does not start, or cannot use TensorRT.
        """
        known = self._probe
        if known is not None and not fresh:  # also while another thread waits for a reply
            return known
        with self._guard:
            if self._probe is None or (fresh and self._running is not None):
                self._probe = self._checked(self.worker(), _PROBE, self.environment.limits.start)
            return self._probe

    def product(self) -> str:
        """The product of the environment, as soon as its worker has said so: a second before it has loaded it.

        Raises:
            CandidateError: the worker does not start, or cannot use TensorRT.
        """
        if not self.running:
            self.start_ahead()
            self._greeted.wait(self.environment.limits.start)
        return self._product or self.probe().product

    def worker(self) -> WorkerProcess:
        """The running worker, started or replaced if need be.

        Raises:
            CandidateError: it does not start.
        """
        with self._guard:
            if self._running is not None:
                return self._running
            if self._aborted:
                raise CandidateError("aborted", environment=self.environment.name)
            if self._failed_ahead is not None:
                error, self._failed_ahead = self._failed_ahead, None
                raise error
            if len(self._failed_starts) >= _STARTS:
                raise self._failed_starts[-1]
            try:
                process = self._start()
            except CandidateError as error:
                self._failed_starts.append(error)
                raise
            self._failed_starts.clear()
            self.generation += 1
            self._process = process
            if self._aborted:  # meanwhile
                process.kill()
                raise CandidateError("aborted", environment=self.environment.name)
            return process

    def ask(self, message: Answered[R], seconds: float | None = None) -> R | protocol.Error:
        """The reply to `message`, or an `Error`.

        A worker that says that it cannot be trusted any more is ended here; the next call gets another.

        Args:
            message: the request.
            seconds: the limit; by default the environment's limit for this kind of request.

        Raises:
            WorkerCrashedError, WorkerTimeoutError, WorkerProtocolError: there is no reply.
            CandidateError: the worker does not start.
        """
        with self._guard:
            worker = self.worker()
            try:
                timed = isinstance(message, protocol.InferRequest) and (
                    message.repeats > 0 or message.profile
                )
                with turns_of(self.environment.gpu).taken(alone=timed):
                    reply = worker.request(message, self._limit(message) if seconds is None else seconds)
            except WorkerCrashedError:
                self._drop_suspect(message)
                raise
            self._end_when_idle()
            if isinstance(reply, protocol.Error) and reply.fatal:
                worker.kill()
            elif isinstance(reply, protocol.BuildReply):
                self._after_build(worker, reply)
            elif isinstance(reply, protocol.InferReply):
                self._has_run = True
            return reply

    def call(self, message: Answered[R], seconds: float | None = None) -> R:
        """As `ask`, but an `Error` is raised.

        Raises:
            BuildFailedError, UnsupportedByReleaseError, CandidateError: the worker could not do it.
        """
        with self._guard:
            reply = self.ask(message, seconds)
            if isinstance(reply, protocol.Error):
                raise self.refusal(message, reply)
            return reply

    def refusal(self, message: Answered[R], error: protocol.Error) -> CandidateError:
        """The exception that says what `error` says, with the last lines of the log."""
        log = () if self._process is None else self._process.log(15)
        return failures.refused(self.environment, failures.describe(message), error, log)

    def take_warnings(self) -> tuple[str, ...]:
        """Warnings that nobody has taken yet."""
        with self._guard:
            warnings, self._warnings = tuple(self._warnings), []
            return warnings

    def close(self) -> None:
        """Keep the caches and end the worker. The next request would start another."""
        with self._guard:
            for variant in self._variants.values():
                variant.close()
            if self._second is not None:
                self._second.abort()
            if self._running is not None:
                self._save_caches(self._running)
            if self._process is not None:
                self._process.close()
                self._process = None
            self._aborted = False
            if self._idle is not None:
                self._idle.cancel()
                self._idle = None

    def abort(self) -> None:
        """Kill the worker in the middle of whatever it does, and start no other, until `close`.

        A thread that waits for its reply fails at once, and so does whatever it asks next.
        """
        self._aborted = True
        for other in (*self._variants.values(), *filter(None, [self._second])):
            other.abort()
        if self._idle is not None:
            self._idle.cancel()
        process = self._process  # the guard is held by the thread that waits
        if process is not None:
            process.kill()

    # --- inside ---------------------------------------------------------------------------------------------

    @property
    def _running(self) -> WorkerProcess | None:
        return self._process if self._process is not None and self._process.alive else None

    def _end_when_idle(self) -> None:
        """End a worker without a GPU some time after this request; the request after that starts another."""
        if self._idle is not None:
            self._idle.cancel()
        if self._probe is None or self._probe.gpu is not None:
            return  # starting a worker on a GPU takes long, and its engines would be lost

        def end() -> None:
            with self._guard:
                if self._idle is timer:
                    self.close()

        timer = threading.Timer(self.environment.limits.idle, end)
        timer.daemon = True
        self._idle = timer
        timer.start()

    def _start(self) -> WorkerProcess:
        if self._process is not None:
            self._process.kill()
        try:
            worker = WorkerProcess(self.environment, adapter=self._adapter)
            self._product = worker.hello.product if self._adapter is None else None
        finally:
            self._greeted.set()
        try:
            self._probe = self._checked(worker, _PROBE, self.environment.limits.start)
            self._unsaved_seconds, self._has_run = 0.0, False
            if self._keep_cache:
                self._caches = self._cache_files(self._probe)
                for cache in self._caches.values():
                    self._load_cache(worker, cache)
        except BaseException:
            worker.kill()
            raise
        return worker

    def _checked(self, worker: WorkerProcess, message: Answered[R], seconds: float) -> R:
        reply = worker.request(message, seconds)
        if isinstance(reply, protocol.Error):
            raise failures.refused(self.environment, failures.describe(message), reply, worker.log(15))
        return reply

    def _load_cache(self, worker: WorkerProcess, cache: CacheFile) -> None:
        copy = cache.fetch(worker.folder)
        if copy is None:
            return
        reply = worker.request(protocol.LoadCache(str(copy), cache.kind), _CACHE_SECONDS)
        copy.unlink(missing_ok=True)
        if isinstance(reply, protocol.Error) or reply.cache_refused:
            self._warnings.append(cache.drop())

    def _cache_files(self, probe: protocol.ProbeReply) -> dict[str, CacheFile]:
        """The caches of this worker; what is compiled without TF32 is of no use to others, nor theirs to it."""
        override = start_variables(self.environment.launch, os.environ).get(TF32_VARIABLE)
        variant = "" if override is None else f"tf32_{override}"
        kinds = [protocol.TIMING, *([protocol.RUNTIME] if "runtime_cache" in probe.capabilities else [])]
        return {kind: CacheFile(kind, probe, variant) for kind in kinds}

    def _after_build(self, worker: WorkerProcess, reply: protocol.BuildReply) -> None:
        refused = {protocol.TIMING: reply.cache_refused, protocol.RUNTIME: reply.runtime_cache_refused}
        self._warnings += [
            cache.drop() for kind, cache in self._caches.items() if refused[kind] and cache.wanted
        ]
        self._unsaved_seconds += reply.facts.build_seconds or 0.0
        if self._unsaved_seconds >= _SAVE_AFTER_BUILD_SECONDS:
            self._save_caches(worker)

    def _drop_suspect(self, message: Answered[Any]) -> None:
        """Drop compiled kernels with which a worker crashed before it ran any engine: the next would, too."""
        cache = self._caches.get(protocol.RUNTIME)
        suspect = isinstance(message, protocol.BuildRequest | protocol.InferRequest) and not self._has_run
        if cache is not None and suspect and cache.path.exists():
            self._warnings.append(cache.drop())

    def _save_caches(self, worker: WorkerProcess) -> None:
        if not self._unsaved_seconds:
            return
        self._unsaved_seconds = 0.0
        copy = worker.folder / "saved.cache"
        for kind, cache in self._caches.items():
            if not cache.wanted:
                continue
            with contextlib.suppress(CandidateError), cache.locked():
                if kind == protocol.RUNTIME and (news := cache.news(worker.folder)) is not None:
                    # It adds them to its own.
                    worker.request(protocol.LoadCache(str(news), kind), _CACHE_SECONDS)
                reply = worker.request(protocol.SaveCache(str(copy), kind), _CACHE_SECONDS)
                if isinstance(reply, protocol.Done) and copy.exists():
                    cache.store(copy)
            copy.unlink(missing_ok=True)

    def _limit(self, message: Answered[Any]) -> float:
        limits = self.environment.limits
        if isinstance(message, protocol.BuildRequest):
            return limits.build
        if isinstance(message, protocol.Compile):
            return limits.compile
        return limits.inference if isinstance(message, protocol.InferRequest) else limits.start


_shared: dict[Environment, Supervisor] = {}
_shared_guard = threading.Lock()


def shared_supervisor(environment: Environment) -> Supervisor:
    """The one supervisor of `environment`, and of its lane, in this process: its worker serves every model."""
    with _shared_guard:
        if environment not in _shared:
            _shared[environment] = Supervisor(environment)
        return _shared[environment]


def abort_shared() -> None:
    """Kill the workers of all shared supervisors, whatever they do."""
    with _shared_guard:
        supervisors = list(_shared.values())
    for supervisor in supervisors:
        supervisor.abort()


def close_shared() -> None:
    """End the workers of all shared supervisors; also done when the process exits."""
    with _shared_guard:
        supervisors = list(_shared.values())
        _shared.clear()
    ends = [threading.Thread(target=supervisor.close) for supervisor in supervisors[1:]]
    for each in ends:  # a worker that gives its GPU back takes its time
        each.start()
    for supervisor in supervisors[:1]:
        supervisor.close()
    for each in ends:
        each.join()


atexit.register(close_shared)
