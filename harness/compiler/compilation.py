"""Compile a model in an environment, without tensors: the report, and the kernels."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from weakref import WeakKeyDictionary

from harness.case import BuildOptions
from harness.compiler.cache import ReportCache, report_key
from harness.compiler.probes import probe_of
from harness.environments import Environment, Supervisor, shared_supervisor
from harness.errors import (
    BuildFailedError,
    CandidateError,
    ModelError,
    UnsupportedByReleaseError,
    WorkerCrashedError,
    WorkerTimeoutError,
)
from harness.model import LOW_DTYPE, Model, kept_for, save_model, with_islands
from harness.tensors import Precision
from harness.text import names
from harness.worker.protocol import (
    TENSORRT_RTX,
    BuilderOptions,
    BuildRequest,
    Compile,
    CompileFailure,
    CompileReply,
    CompileReport,
    Error,
    KernelList,
    NodeHint,
    ProbeReply,
    Profile,
    from_plain,
)

#: Raised whenever reports come to say something else of the same build.
_FORMAT = 3


def compile_model(
    model: Model,
    precision: Precision,
    environment: Environment,
    *,
    islands: Collection[str] = (),
    profiles: Mapping[str, Profile] | None = None,
    options: BuildOptions | None = None,
    supervisor: Supervisor | None = None,
    cache: ReportCache | None = None,
) -> CompileReport:
    """What the compiler of `environment` makes of `model`, from the cache if it was asked before.

    A builder that crashes or hangs on the model is a failure in the report; the next model gets a new worker.

    Args:
        model: the model; a typed graph is made of it where the release takes its precision from the graph.
        precision: the precision.
        environment: the compiler.
        islands: names of nodes that stay in FP32.
        profiles: (minimum, optimum, maximum) shape of each input with a dynamic axis.
        options: override the environment's build options where they are set.
        supervisor: the environment's worker; by default the one that all of this process share.
        cache: where reports are kept; by default harness's cache folder.

    Raises:
        CandidateError: the environment cannot be used, or the request makes no sense there.
        NothingSelectedError: an island is no node of the model.
    """
    supervisor = supervisor or shared_supervisor(environment)
    cache = cache or ReportCache()
    request, probe, key = _asked(model, precision, environment, supervisor, islands, profiles, options)
    report = cache.get(key)
    if report is None:
        report = _compile(supervisor, model, request, probe)
        cache.put(key, report)
    return report


def kernels_of(
    model: Model,
    precision: Precision,
    environment: Environment,
    *,
    islands: Collection[str] = (),
    profiles: Mapping[str, Profile] | None = None,
    options: BuildOptions | None = None,
    supervisor: Supervisor | None = None,
    cache: ReportCache | None = None,
) -> KernelList:
    """The kernels that the compiler of `environment` makes of `model`; see `compile_model`.

    Where an engine of it is being built, it waits for that and asks no compiler: see `learn_kernels`.

    Raises:
        UnsupportedByReleaseError: the parser refuses a node.
        BuildFailedError: it cannot be built, or its kernels cannot be read.
        CandidateError: as `compile_model`.
    """
    supervisor = supervisor or shared_supervisor(environment)
    cache = cache or ReportCache()
    _, _, key = _asked(model, precision, environment, supervisor, islands, profiles, options)
    report = cache.get(key)
    if report is None:
        with supervisor.turn():
            learnt = _LEARNT.get(supervisor, {}).get(key)
            if learnt is not None:
                return learnt
            report = compile_model(
                model,
                precision,
                environment,
                islands=islands,
                profiles=profiles,
                options=options,
                supervisor=supervisor,
                cache=cache,
            )
    if report.kernels is not None:
        return report.kernels
    where = f"environment {environment.name}"
    compiler = f"{report.product} {report.release}"
    if report.refused:
        said = tuple(map(str, report.refused))
        count = "" if len(said) == 1 else f" and {len(said) - 1} more"
        raise UnsupportedByReleaseError(
            f"{compiler} cannot parse {model.name}: {said[0]}{count}", where=where, evidence=said
        )
    if report.failure is not None:
        raise BuildFailedError(report.failure.message, where=where, evidence=report.failure.evidence)
    raise BuildFailedError(
        f"{compiler} does not say which kernels it made of {model.name}",
        where=where,
        evidence=report.warnings,
    )


_LEARNT: WeakKeyDictionary[Supervisor, dict[str, KernelList]] = WeakKeyDictionary()
"""By worker and key of a report, the kernels of engines that it has built."""


def learn_kernels(
    model: Model,
    precision: Precision,
    environment: Environment,
    kernels: KernelList,
    *,
    islands: Collection[str],
    profiles: Mapping[str, Profile],
    supervisor: Supervisor,
) -> None:
    """Remember the kernels of an engine, as what its compiler makes of `model`: `kernels_of` does not ask again.

    Args:
        model: the model, of which the engine was built with the environment's own options.
        precision: the precision.
        environment: where it was built.
        kernels: those that the inspector names.
        islands: names of nodes that are in FP32 in it.
        profiles: (minimum, optimum, maximum) shape of each input with a dynamic axis.
        supervisor: the worker that has built it.
    """
    _, _, key = _asked(model, precision, environment, supervisor, islands, profiles, None)
    _LEARNT.setdefault(supervisor, {})[key] = kernels


def node_hints(model: Model) -> tuple[NodeHint, ...]:
    """What a worker needs to know of the nodes of `model`."""
    return tuple(
        NodeHint(node.name, node.op, tuple(name for name in node.outputs if name), node.lowerable)
        for node in model.nodes
    )


def builder_options(options: BuildOptions) -> BuilderOptions:
    """Those of `options` that the builder sees to."""
    return from_plain(BuilderOptions, options.model_dump(mode="json", exclude={"typing", "pins"}))


def _asked(
    model: Model,
    precision: Precision,
    environment: Environment,
    supervisor: Supervisor,
    islands: Collection[str],
    profiles: Mapping[str, Profile] | None,
    options: BuildOptions | None,
) -> tuple[BuildRequest, ProbeReply, str]:
    """What to build, in which compiler, and the key of the report; the graph is made when it is built."""
    probe = probe_of(environment, supervisor)
    given = {} if options is None else options.model_dump(exclude_unset=True)
    build = environment.build.model_copy(update=given)
    request = BuildRequest(
        model_path="",
        precision=precision.value,
        typing=build.typing or ("weak" if "weak" in probe.capabilities else "strong"),
        islands=tuple(sorted(islands)),
        profiles=dict(profiles or {}),
        options=builder_options(build),
    )
    return request, probe, _key(model, request, probe, environment)


def _key(model: Model, request: BuildRequest, probe: ProbeReply, environment: Environment) -> str:
    """The model, and a hash of all that a report depends on.

    An engine of TensorRT is made for the GPU at hand; one of TensorRT for RTX only if that is asked for.
    """
    portable = probe.product == TENSORRT_RTX and request.options.compute_capability != "current"
    machine = None if portable else (probe.gpu, probe.compute_capability, probe.driver)
    parts = (
        _FORMAT,
        model.sha256,
        asdict(request),
        probe.product,
        probe.tensorrt,
        machine,
        environment.variables,
    )
    return report_key(model.sha256, hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())


def _compile(supervisor: Supervisor, model: Model, request: BuildRequest, probe: ProbeReply) -> CompileReport:
    """The report, with what the parser refuses at the precision kept in FP32, and a warning that says so."""
    report = _ask(supervisor, model, request, probe)
    kept: frozenset[str] = frozenset()
    while _is_typed(request) and report.refused:
        more = kept_for(model, [node.name for node in report.refused]) - kept - set(request.islands)
        if not more:
            return report
        kept |= more
        report = _ask(supervisor, model, request, probe, kept)
    if not kept:
        return report
    listed = tuple(node.name for node in model.nodes if node.name in kept)
    warning = f"the parser refuses {names(listed)} at {request.precision}: kept in FP32"
    return replace(report, kept=listed, warnings=(*report.warnings, warning))


def _is_typed(request: BuildRequest) -> bool:
    return request.typing == "strong" and request.precision in LOW_DTYPE


def _ask(
    supervisor: Supervisor,
    model: Model,
    request: BuildRequest,
    probe: ProbeReply,
    kept: frozenset[str] = frozenset(),
) -> CompileReport:
    graph = model
    if _is_typed(request):
        try:
            graph = with_islands(model, Precision(request.precision), kept.union(request.islands))
        except ModelError as error:
            failure = CompileFailure("unsupported", f"there is no typed graph: {error.message}")
            return CompileReport(probe.product, probe.tensorrt, request.typing, failure=failure)
    folder = supervisor.worker().folder / f"compile-{graph.sha256[:16]}"
    path = save_model(graph, folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', model.name)[:60]}.onnx")
    request = replace(request, model_path=str(path), nodes=node_hints(graph))
    try:
        reply = supervisor.ask(Compile(request))
    except WorkerCrashedError as error:
        return _failed("crashed", error, request, probe)
    except WorkerTimeoutError as error:
        return _failed("timed_out", error, request, probe)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if isinstance(reply, Error):
        refusal = supervisor.refusal(Compile(request), reply)
        if reply.kind == "out_of_memory":
            return _failed(reply.kind, refusal, request, probe)
        raise refusal
    assert isinstance(reply, CompileReply)
    return reply.report


def _failed(kind: str, error: CandidateError, request: BuildRequest, probe: ProbeReply) -> CompileReport:
    failure = CompileFailure(kind, error.message, error.lines)
    return CompileReport(probe.product, probe.tensorrt, request.typing, failure=failure)
