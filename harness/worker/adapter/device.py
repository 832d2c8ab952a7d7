"""What is known of the machine: GPU, driver, versions."""

import ctypes
import json
import re
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..protocol import Fault, ProbeReply
from .release import Release
from .runtime import Cuda, load_cudart

#: The library of a product, behind its folder; those beside it (the ONNX parser, plugins) have other names.
_LIBRARY = re.compile(r" (?P<path>/.*/(?:libtensorrt_rtx|libnvinfer)\.so[^/\n]*)$")


def probe(
    trt: Any, release: Release, logger: Any, cuda: Optional[Cuda], *, load: bool = False
) -> Tuple[ProbeReply, Any]:
    """What this environment is and can do; what does not work is in `problems`, and never raised.

    Returns:
        the reply, and the `trt.Builder` that was made, or None. As long as it lives, TensorRT keeps the library of
        its kernels loaded, and the builders of the builds that follow are made at once.
    """
    problems: List[str] = []
    reply = ProbeReply(
        release.version,
        product=release.product,
        capabilities=release.capabilities(),
        preview_features=release.preview_features,
        packages=_packages(),
    )
    no_gpu: Optional[str] = None
    try:
        reply = _with_gpu(reply, Cuda(load_cudart()) if cuda is None else cuda)
    except Fault as fault:
        no_gpu = fault.message
    builder: Any = None
    sources: Tuple[str, ...] = ()
    routes: Dict[str, Tuple[str, ...]] = {}
    try:
        builder = trt.Builder(logger)
        config = builder.create_builder_config()
        sources = _sources(trt, release, config.get_tactic_sources())
        if release.offers("build_routes"):
            routes = build_routes(str(config.all_build_routes))
    except Exception as error:  # pybind raises a TypeError where the factory returned nothing
        problems.append(
            "{} cannot make a builder ({}): does it support this GPU and driver?".format(
                release, str(error).splitlines()[0]
            )
        )
    cannot_run: Optional[str] = "no GPU: cannot run"
    if no_gpu is None:
        cannot_run = refusal(trt, release, logger, builder, reply) if load and builder is not None else None
    elif builder is None or not release.offers("compute_capability"):
        problems.insert(0, no_gpu)
    found = replace(
        reply,
        cannot_run=cannot_run,
        builder_ok=builder is not None,
        problems=tuple(problems),
        tactic_sources=sources,
        build_routes=routes,
    )
    return found, builder


def check_library(trt: Any) -> None:
    """See that the library that the bindings have loaded is of their release: with another one nothing is sure.

    Bindings of TensorRT for RTX 1.6 load the library of 1.4, and then have no configuration to build with.

    Raises:
        ImportError: it is of another release.
    """
    major, minor, patch = (int(part) for part in re.findall(r"\d+", str(trt.__version__))[:3])
    # TensorRT 8 counts in thousands, and so did the others before it.
    wanted = (major * 10000 + minor * 100 + patch, major * 1000 + minor * 100 + patch)
    for path in loaded_libraries():
        try:
            found = int(ctypes.CDLL(path).getInferLibVersion())
        except (OSError, AttributeError):
            continue
        if found not in wanted:
            base = 10000 if found >= 10000 else 1000
            parts = (found // base, found % base // 100, found % 100)
            raise ImportError(
                "its Python bindings are of {}, and {} of {}".format(
                    trt.__version__, path, ".".join(map(str, parts))
                )
            )


def loaded_libraries() -> List[str]:
    """Paths of TensorRT's own library in this process, of whichever product; empty where the system does not tell."""
    try:
        with open("/proc/self/maps") as maps:
            found = {match.group("path") for match in map(_LIBRARY.search, maps) if match is not None}
    except OSError:
        return []
    return sorted(path.rstrip() for path in found)


def refusal(trt: Any, release: Release, logger: Any, builder: Any, gpu: ProbeReply) -> Optional[str]:
    """Why the GPU takes no engine of this release, found by building the smallest one; None if it takes it."""
    if not release.offers("engine_validity"):
        return None
    network = builder.create_network(0)
    network.mark_output(network.add_identity(network.add_input("x", trt.DataType.FLOAT, (1,))).get_output(0))
    serialized = builder.build_serialized_network(network, builder.create_builder_config())
    if serialized is None:
        return "builds nothing for this GPU"
    runtime = trt.Runtime(logger)
    if runtime.deserialize_cuda_engine(serialized) is not None:
        return None
    why = reasons(trt, runtime, serialized)
    if "UNSUPPORTED_CC" in why:
        return "refuses this GPU: compute capability {}".format(gpu.compute_capability)
    return "refuses this GPU: {}".format(in_words(why) or "no reason given")


def reasons(trt: Any, runtime: Any, serialized: Any) -> Tuple[str, ...]:
    """What the runtime has against an engine that it did not load: names of `trt.EngineInvalidityDiagnostics`.

    Not whether it loads it: on an H200, 1.6 calls engines invalid that it loads and runs.
    """
    _, bits = runtime.get_engine_validity(serialized)
    members = trt.EngineInvalidityDiagnostics.__members__.items()
    return tuple(name for name, member in members if int(bits) & int(member))


def in_words(reasons: Sequence[str]) -> str:
    """`unsupported cc, old cuda driver`."""
    return ", ".join(reasons).lower().replace("_", " ")


def _sources(trt: Any, release: Release, bits: int) -> Tuple[str, ...]:
    members = trt.TacticSource.__members__
    return tuple(name for name in release.tactic_sources if int(bits) >> int(members[name]) & 1)


def build_routes(text: str) -> Dict[str, Tuple[str, ...]]:
    """The builder's knobs and the values that each allows, off the JSON of `all_build_routes`.

    `{"tuner_options": [{"option": "-knob", "allowed_values": "[on|off]", "default_value": "off"}]}`; a knob whose
    values are no list (a range) has its default alone. What does not read so is left out.
    """
    try:
        listed = json.loads(text)["tuner_options"]
        return {
            str(knob["option"]): _allowed(str(knob.get("allowed_values", "")))
            or (str(knob.get("default_value", "")),)
            for knob in listed
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _allowed(text: str) -> Tuple[str, ...]:
    found = re.search(r"\[([^\]]*)\]", text)
    if found is None or "..." in found.group(1):
        return ()
    return tuple(value.strip() for value in found.group(1).split("|") if value.strip())


def _with_gpu(reply: ProbeReply, cuda: Cuda) -> ProbeReply:
    free, total = cuda.memory()
    return replace(
        reply,
        cuda=cuda.runtime_version(),
        driver=driver_version() or cuda.driver_version(),
        gpu=cuda.gpu_name(),
        compute_capability=cuda.compute_capability(),
        free_bytes=free,
        total_bytes=total,
    )


def driver_version() -> Optional[str]:
    """Of the kernel driver, such as `580.159.03`; None where neither NVML nor /proc has it."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        buffer = ctypes.create_string_buffer(96)
        if nvml.nvmlInit_v2() == 0 and nvml.nvmlSystemGetDriverVersion(buffer, ctypes.c_uint(96)) == 0:
            return buffer.value.decode()
    except (OSError, AttributeError):
        pass
    try:
        with open("/proc/driver/nvidia/version") as file:
            found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", file.read())
            return found.group(1) if found else None
    except OSError:
        return None


def _packages() -> Dict[str, str]:
    found: Dict[str, str] = {}
    for name in ("numpy", "polygraphy"):
        try:
            found[name] = str(__import__(name).__version__)
        except Exception:  # a package that is broken must not hide the rest
            continue
    return found
