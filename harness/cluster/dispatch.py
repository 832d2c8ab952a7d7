"""Hand units to the workers of a dask scheduler, each to one that can carry it out, and again if that worker dies.

Which worker gets what is decided here and not by the scheduler: a unit is repeated once and no more, whatever the
scheduler allows; units of one model go to the worker that has it loaded; and a worker has one of our units at a time.
What takes a GPU also takes the resource `GPU` of a worker that declares it (`dask worker … --resources GPU=1`), so
that work of others keeps off it meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from harness.cluster import remote
from harness.cluster.units import D, R, Unit
from harness.errors import InternalError, MissingDependencyError, SchedulerError, UnitLostError
from harness.text import names

if TYPE_CHECKING:
    from distributed import Client


CONNECT_SECONDS = 10.0
LOOK_SECONDS = 0.25
"""How often the workers that are there are looked at."""
REPLACED_WITHIN = 60.0
"""Seconds that a unit waits for a worker that can carry it out, once none is left."""
MOST_ATTEMPTS = 2
GPU = "GPU"


@dataclass(frozen=True)
class _Listed:
    """A running worker in the scheduler's list: the id of this start of it, its machine, its GPUs if it counts them."""

    id: str
    host: str
    gpus: float | None


def _listed(info: Mapping[str, Any]) -> dict[str, _Listed]:
    """The running workers by address, from what dask's scheduler tells of itself."""
    return {
        address: _Listed(str(told["id"]), str(told["host"]), told["resources"].get(GPU))
        for address, told in info["workers"].items()
        if told["status"] == "running"
    }


@dataclass(frozen=True)
class _Worker(_Listed):
    """One that can be used: its address, and what it has."""

    address: str
    about: remote.About

    def can(self, unit: Unit[Any, Any]) -> bool:
        return set(unit.environments) <= set(self.about.environments)


@dataclass(frozen=True)
class Kept(Generic[R]):
    """A result that its worker keeps as well, for as long as this is referred to, to give it to other workers."""

    result: R
    _future: Any
    _worker: _Worker


@dataclass(eq=False)
class _Task:
    unit: Unit[Any, Any]
    future: Future[Any]
    started: Callable[[], None]
    keep: bool = False
    given: Kept[Any] | None = None
    has_begun: bool = False
    lost: int = 0
    unfit_since: float | None = None
    """Since when no worker can carry it out."""


@contextmanager
def open_cluster(
    address: str, *, environments: Collection[str] = (), files: Iterable[Path] = ()
) -> Iterator[Cluster]:
    """The workers of the scheduler at `address`; leaving the context frees what they hold open for us.

    Args:
        address: such as `tcp://10.0.0.1:8786`; `tls://` with the certificates that dask's own configuration names.
        environments: each must be in the harness.toml of a worker.
        files: what every worker must see under the same path.

    Raises:
        MissingDependencyError: the extra `cluster` is not installed.
        SchedulerError: no scheduler answers there, it has no worker, one has another version of harness or does not
            see a file, or none has an environment.
    """
    client = _connect(address)
    try:
        cluster = Cluster(client, address, list(dict.fromkeys(map(str, files))))
        cluster.check(environments)
        try:
            yield cluster
        except BaseException:
            cluster.close(at_once=True)
            raise
        cluster.close()
    finally:
        with suppress(Exception):
            client.close(timeout=5)


def _connect(address: str) -> Client:
    try:
        from distributed import Client
    except ImportError:
        raise MissingDependencyError(
            "--scheduler needs dask, which is not installed", hint="pip install 'harness[cluster]'"
        ) from None
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is told here, and once
    try:
        # A client that gets no answer is closed with tracebacks of its own; nor does dask limit every wait for one.
        asyncio.run(asyncio.wait_for(_knock(address), CONNECT_SECONDS + 1))
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # of the network, of TLS, of the address: dask has a class of its own for each
        silent = "whoever listens there does not speak as a scheduler does"
        why = str(error).splitlines()[0] if str(error) else silent
        raise SchedulerError(
            f"no scheduler answers: {why}",
            where=f"--scheduler {address}",
            hint="name the certificates in dask's configuration: distributed.comm.tls"
            if "ssl_context" in why
            else "start one with `dask scheduler`, and give the address that it prints",
        ) from error


async def _knock(address: str) -> None:
    """Raise if nobody speaks dask's protocol there, with the certificates of dask's configuration."""
    from distributed.comm import connect
    from distributed.security import Security

    comm = await connect(address, timeout=CONNECT_SECONDS, **Security().get_connection_args("client"))
    comm.abort()


class Cluster:
    """The workers of a scheduler. Made by `open_cluster`."""

    def __init__(self, client: Client, address: str, files: Sequence[str]) -> None:
        self._client = client
        self._address = address
        self._asked = (str(Path.cwd()), list(files))
        self._workers: dict[str, _Worker] = {}
        self._refused: dict[tuple[str, str], SchedulerError] = {}
        """By address and id, why a worker cannot be used."""
        self._waiting: deque[_Task] = deque()
        self._running: dict[_Worker, tuple[_Task, Any]] = {}
        self._last: dict[_Worker, str] = {}
        """The subject that each worker has loaded."""
        self._events: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._number = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._dispatch, name="dispatch", daemon=True)
        self._look()

    def check(self, environments: Collection[str]) -> None:
        """Raise SchedulerError where the workers that are there cannot do what is to come."""
        if self._refused:
            raise next(iter(self._refused.values()))
        if not self._workers:
            raise self._error("the scheduler has no workers", "start some: dask worker ADDRESS")
        workers = [worker.about for worker in self._workers.values()]
        known = {name for about in workers for name in about.environments}
        if lacking := [name for name in environments if name not in known]:
            folders = sorted({about.folder for about in workers})
            has = f"they have {names(sorted(known), 6)}" if known else "they have none"
            raise self._error(
                f"no worker has the environment {lacking[0]!r}; {has}",
                "each reads the harness.toml of the folder it was started in, and that of this folder where "
                f"there is none; they were started in {names(folders, 3)}",
            )
        self._thread.start()

    def _error(self, message: str, hint: str) -> SchedulerError:
        return SchedulerError(message, where=f"--scheduler {self._address}", hint=hint)

    def __len__(self) -> int:
        """How many workers there are at the moment."""
        return len(self._workers)

    def submit(
        self,
        unit: Unit[D, R],
        started: Callable[[], None] = lambda: None,
        *,
        given: Kept[R] | None = None,
    ) -> Future[R]:
        """The future result of `unit`; `started` is called when a worker gets it.

        `given` is what the unit is given (`Unit.given`), from the worker that keeps it to the one that needs it; from
        here only if that worker died.

        The future raises what the unit raises; UnitLostError if two workers died of it, or no worker that could carry
        it out came back; SchedulerError if the scheduler is gone; CancelledError if `close` came first.
        """
        return self._submit(_Task(unit, Future(), started, given=given))

    def submit_kept(self, unit: Unit[D, R], started: Callable[[], None] = lambda: None) -> Future[Kept[R]]:
        """As `submit`; the worker keeps the result for other units."""
        return self._submit(_Task(unit, Future(), started, keep=True))

    def _submit(self, task: _Task) -> Future[Any]:
        self._events.put(task)
        if self._stopped:
            task.future.cancel()
        return task.future

    def close(self, *, at_once: bool = False) -> None:
        """Free what the workers hold open for us; `at_once`, also end what they are doing. Twice is allowed."""
        if self._stopped:
            return
        self._stopped = True
        self._events.put(None)
        if self._thread.is_alive():
            self._thread.join(10)
        for task, future in self._running.values():
            with suppress(Exception):
                future.cancel()
            if not task.future.done():
                task.future.set_exception(CancelledError())
        while not self._events.empty():
            event = self._events.get()
            self._waiting.extend([] if event is None else [event])
        for task in self._waiting:
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()
        with suppress(Exception):  # who died or cannot be reached has nothing open
            workers = [worker.address for worker in self._workers.values()]
            self._client.run(
                remote.leave, self._client.id, at_once=at_once, workers=workers, on_error="ignore"
            )

    def _dispatch(self) -> None:
        """The loop of a thread of its own: everything but `submit` and `close` happens here."""
        looked = time.monotonic()
        try:
            while not self._stopped:
                with suppress(queue.Empty):
                    event = self._events.get(timeout=LOOK_SECONDS)
                    if event is not None:
                        self._waiting.append(event)
                for worker in [each for each, (_, future) in self._running.items() if future.done()]:
                    self._collect(worker)
                if time.monotonic() - looked >= LOOK_SECONDS:
                    self._look()
                    looked = time.monotonic()
                if self._events.empty():  # or the first of many would go before the others are known
                    self._hand_out()
        except Exception:  # dask has another one for each moment at which its scheduler can go
            logging.getLogger(__name__).debug("the scheduler is gone", exc_info=True)
            self._fail()

    def _fail(self) -> None:
        """Let everybody who waits know that nothing comes any more."""
        gone = self._error(
            "the scheduler is gone",
            "start it and its workers again, and repeat the command (`harness drift --resume` goes on)",
        )
        tasks = [*self._waiting, *(task for task, _ in self._running.values())]
        while True:
            for task in tasks:
                if not task.future.done():
                    task.future.set_exception(gone)
            event = self._events.get()
            if self._stopped:
                return
            tasks = [] if event is None else [event]

    def _look(self) -> None:
        """See which workers came and which went; units of those that went are to be carried out again.

        Raises:
            OSError: the scheduler does not answer.
        """
        there = _listed(self._client.scheduler_info(n_workers=-1))
        if self._client.status != "running":
            raise OSError("the connection was lost")
        ids = {address: listed.id for address, listed in there.items()}
        for worker in [each for each in self._workers.values() if ids.get(each.address) != each.id]:
            del self._workers[worker.address]
            self._last.pop(worker, None)
            if worker in self._running:
                self._lose(worker)
            self._hand_back(worker)
        new = [
            address
            for address, id in ids.items()
            if address not in self._workers and (address, id) not in self._refused
        ]
        if not new:
            return
        found = self._client.run(remote.describe, *self._asked, workers=new, on_error="return")
        for address, about in found.items():
            listed = there[address]
            if isinstance(about, OSError):
                continue  # it went, or has only begun: the next look tells
            if why := self._unusable(listed.host, about):
                self._refused[address, ids[address]] = why
            else:
                self._workers[address] = _Worker(**vars(listed), address=address, about=about)

    def _unusable(self, host: str, about: object) -> SchedulerError | None:
        """Why a worker cannot be used, by what it says of itself."""
        if not isinstance(about, remote.About):
            return self._error(
                f"the worker on {host} cannot run harness: {about}",
                "install this version there: pip install 'harness[cluster]', and start the worker with that Python",
            )
        if about.version != remote.version():
            return self._error(
                f"the worker on {host} has {about.version}, and this is {remote.version()}",
                "install the same one there, and start the worker again: it keeps the one it was started with",
            )
        if about.lacks:
            return self._error(
                f"the worker on {host} does not see {names(about.lacks, 3)}",
                "cases and models lie under the same path on every machine, such as in a shared folder",
            )
        return None

    def _lose(self, worker: _Worker) -> None:
        """Put the unit of a worker that died in front, or give it up."""
        task, future = self._running.pop(worker)
        future.cancel()
        task.lost += 1
        if task.lost < MOST_ATTEMPTS:
            self._waiting.appendleft(task)
        else:
            task.future.set_exception(
                UnitLostError(
                    f"{task.lost} workers died while they carried it out, the last one on {worker.address}"
                )
            )

    def _hand_back(self, gone: _Worker) -> None:
        """Restart the units that wait for a result which a dead worker kept; it does not count as their own failure."""
        for worker, (task, future) in list(self._running.items()):
            if task.given is not None and task.given._worker == gone:
                del self._running[worker]
                future.cancel()
                self._waiting.appendleft(task)

    def _hand_out(self) -> None:
        """Give each idle worker what fits it: of the subject it has loaded, else of one that nobody has, else any."""
        for cancelled in [each for each in self._waiting if each.future.cancelled()]:
            self._waiting.remove(cancelled)
            cancelled.future.set_running_or_notify_cancel()  # or whoever waits for it would not hear
        for worker in self._workers.values():
            if worker not in self._running and (task := self._next_for(worker)):
                self._waiting.remove(task)
                self._start(worker, task)
        self._give_up_unfit()

    def _next_for(self, worker: _Worker) -> _Task | None:
        loaded, taken = self._last.get(worker), set(self._last.values())
        best: tuple[int, _Task] | None = None
        for task in self._waiting:
            if not self._fits(worker, task.unit):
                continue
            rank = 0 if task.unit.subject == loaded else 1 if task.unit.subject not in taken else 2
            if best is None or rank < best[0]:
                best = (rank, task)
            if rank == 0:
                break
        return None if best is None else best[1]

    def _fits(self, worker: _Worker, unit: Unit[Any, Any]) -> bool:
        """Whether a worker can carry out a unit; where some count GPUs, what takes a GPU is for those."""
        if not worker.can(unit):
            return False
        if not unit.on_gpu or worker.gpus:
            return True
        return not any(other.gpus and other.can(unit) for other in self._workers.values())

    def _give_up_unfit(self) -> None:
        """Units that nobody can carry out wait for a worker to be replaced, but not for ever."""
        now = time.monotonic()
        for task in list(self._waiting):
            if any(self._fits(worker, task.unit) for worker in self._workers.values()):
                task.unfit_since = None
                continue
            task.unfit_since = task.unfit_since or now
            if now - task.unfit_since > REPLACED_WITHIN:
                self._waiting.remove(task)
                needed = names(task.unit.environments, 3)
                task.future.set_exception(
                    UnitLostError(
                        f"no worker {f'with {needed} ' if needed else ''}came back within {REPLACED_WITHIN:.0f} s"
                    )
                )

    def _start(self, worker: _Worker, task: _Task) -> None:
        if not task.future.running() and not task.future.set_running_or_notify_cancel():
            return
        try:
            if not task.has_begun:
                task.has_begun = True
                task.started()
        except BaseException as error:  # such as an interruption: it is for whoever waits for the result
            task.future.set_exception(error)
            return
        self._number += 1
        unit, given = task.unit, task.given
        if given is not None and given._worker not in self._workers.values():
            unit, given = unit.given(given.result), None
        future = self._client.submit(
            remote.carry_out,
            self._client.id,
            unit,
            None if given is None else given._future,
            key=f"harness-{self._client.id}-{self._number}",
            workers=[worker.address],
            resources={GPU: 1} if task.unit.on_gpu and worker.gpus else None,
            retries=0,
            pure=False,
        )
        self._running[worker], self._last[worker] = (task, future), task.unit.subject
        future.add_done_callback(lambda _: self._events.put(None))

    def _collect(self, worker: _Worker) -> None:
        """Take the result of a worker that is done; where it cannot be had now, the next look tells why."""
        task, future = self._running[worker]
        if future.status not in ("finished", "error"):
            self._lose(worker)
            return
        try:
            if future.status == "finished":
                result, error = future.result(timeout=CONNECT_SECONDS), None
            else:
                result, error = None, future.exception(timeout=CONNECT_SECONDS)
        except (OSError, CancelledError):
            return
        if type(error).__name__ == "KilledWorker":
            return
        del self._running[worker]
        if error is None:
            task.future.set_result(Kept(result, future, worker) if task.keep else result)
        else:
            known = isinstance(error, Exception)
            task.future.set_exception(error if known else InternalError(f"internal error: {error!r}"))
