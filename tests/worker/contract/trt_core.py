"""How the doubles behave: what all share, the logger, the builder and its configuration.

A class in here, in `trt_network` or in `trt_runtime` acts out the class of its name; what starts with an
underscore is its own. `bases` are what the generated class derives from beside.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import trt_compile
import trt_runtime
import trt_tuning


class Strict:
    """An object of pybind: it has its members and no others. Python subclasses may hold what they like."""

    _world: "World"

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        if (
            "_owner" in vars(cls)
            and not name.startswith("_")
            and not isinstance(vars(cls).get(name), property)
        ):
            raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


def is_rtx(version: str) -> bool:
    """Whether a release is one of TensorRT for RTX, whose numbers began anew."""
    return int(version.partition(".")[0]) < 8


class World:
    """One release at work. The tests turn its knobs.

    Args:
        version: of the release.
        trt: what the module holds; what is read here is not counted as used.
    """

    def __init__(self, version: str, trt: Any) -> None:
        self.version = version
        self.major, self.minor = (int(part) for part in version.split(".")[:2])
        #: TensorRT for RTX, which builds without a GPU, behaves like TensorRT 11: types are the graph's alone.
        self.rtx = is_rtx(version)
        if self.rtx:
            self.major, self.minor = 11, 0
        self.trt = trt
        self.logger: Any = None
        self.plans: dict[bytes, trt_compile.Plan] = {}
        #: The plan of each build, in order.
        self.built: list[trt_compile.Plan] = []
        #: The memory that tensors may lie in; None lets everything through.
        self.memory: Any = None
        self.gpu = True
        #: Why the GPU takes no engine, a name of `EngineInvalidityDiagnostics`; None if it does.
        self.refuses: str | None = None
        #: The configuration of the build under way, and how many builds were begun.
        self.config: Any = None
        self.attempts = 0
        #: What the builder says when it fails: given the network, an error or None.
        self.break_build: Callable[[Any], str | None] = lambda network: None
        #: Whether every layer stays in FP32, flags or not.
        self.fallback = False
        self.contexts: dict[int, Any] = {}
        #: Whether layer precisions are not obeyed.
        self.disobey = False
        self.refuse_cache = False
        #: What is offered for a layer, how far measured times are off, and layers that obey nobody.
        self.candidates: Callable[[Any], list[trt_tuning.Candidate]] = trt_tuning.candidates
        self.noise = 0.0
        self.random = random.Random(0)
        self.deaf: set[str] = set()
        #: Whether a layer computes nonsense with the kernel that it has.
        self.wrong: Callable[[Any], bool] = lambda layer: False
        #: How often kernels were compiled for an execution context, and not found in a cache.
        self.compiled = 0
        #: Whether products of FP32 are computed in TF32 unless a variable says otherwise, and what runs then.
        self.tf32 = False
        self.starts_nothing = False  # without TF32, as 1.4 with some products: seen on an H200
        self.names_only = False
        self.opaque = False

    def compile_kernels(self, plan: trt_compile.Plan, cache: Any) -> None:
        """Compile what the cache does not have."""
        kernels = {f"{layer.name} {layer.outputs}" for layer in plan.layers}
        self.compiled += not kernels <= cache._kernels
        cache._kernels |= kernels

    @property
    def without_tf32(self) -> bool:
        """Whether TensorRT for RTX was started without TF32."""
        return self.rtx and os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"

    def make(self, owner: str, **state: Any) -> Any:
        """An object of a class that has no constructor."""
        cls = getattr(self.trt, owner)
        made = cls.__new__(cls)
        for name, value in state.items():
            object.__setattr__(made, f"_{name}", value)
        return made

    def say(self, severity: str, text: str) -> None:
        """Log."""
        self.logger.log(getattr(self.trt.ILogger, severity), text)

    def member(self, enum: str, value: Any) -> str:
        """The name of an enum member that must be of this enum of this release.

        Raises:
            TypeError: it is something else, as pybind says.
        """
        if type(value) is not getattr(self.trt, enum):
            raise TypeError(f"incompatible function arguments: {value!r} is no {enum}")
        return str(value.name)

    def members_of(self, enum: str, bits: int) -> set[str]:
        """The names in a bit set.

        Raises:
            AssertionError: a bit that no member of this release has.
        """
        members = getattr(self.trt, enum).__members__.values()
        found = {member.name for member in members if bits >> int(member) & 1}
        assert bits >> len(members) == 0, f"{bits:#x} has bits that no {enum} of {self.version} has"
        return found

    def callback(self, value: Any, owner: str) -> Any:
        """An object whose Python class derives from `owner` and whose `owner` was initialised."""
        if not isinstance(value, getattr(self.trt, owner)):
            raise TypeError(f"incompatible function arguments: {value!r} is no {owner}")
        assert getattr(value, "_initialised", False), f"{owner}.__init__ was not called: the real one crashes"
        return value


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    """Registers TensorRT's own plugins."""
    logger._world.callback(logger, "ILogger")
    return namespace == ""


FUNCTIONS = {"init_libnvinfer_plugins": init_libnvinfer_plugins}


class _Callback:
    def __init__(self: Any) -> None:
        self._initialised = True


class ILogger(_Callback):
    __init__ = _Callback.__init__

    def log(self: Any, severity: Any, msg: str) -> None:
        raise NotImplementedError("pure virtual")


class IProfiler:
    __init__ = _Callback.__init__

    def report_layer_time(self: Any, layer_name: str, ms: float) -> None:
        raise NotImplementedError("pure virtual")


class IDebugListener:
    __init__ = _Callback.__init__

    def process_debug_tensor(self: Any, *arguments: Any) -> bool:
        raise NotImplementedError("pure virtual")


class IOutputAllocator:
    __init__ = _Callback.__init__


class IInt8EntropyCalibrator2:
    __init__ = _Callback.__init__


class Builder:
    def __init__(self: Any, logger: Any) -> None:
        world = self._world
        world.logger = world.callback(logger, "ILogger")
        if not world.gpu and not world.rtx:
            world.say("ERROR", "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self: Any, flags: int = 0) -> Any:
        named = self._world.members_of("NetworkDefinitionCreationFlag", flags)
        return self._world.make("INetworkDefinition", **_network_state(named))

    def create_builder_config(self: Any) -> Any:
        return self._world.make("IBuilderConfig", **_config_state())

    def create_optimization_profile(self: Any) -> Any:
        return self._world.make("IOptimizationProfile", shapes={})

    def build_serialized_network(self: Any, network: Any, config: Any) -> Any:
        world = self._world
        exclusive = {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"}
        assert not exclusive <= config._flags, "TensorRT refuses a configuration with both"
        world.config, world.attempts = config, world.attempts + 1
        error = world.break_build(network)
        plan = None
        if error is None:
            try:
                plan = trt_compile.compile_network(network, config, world)
            except (trt_compile.BuildError, trt_tuning.CacheMiss) as failed:
                error = str(failed)
        if plan is None:
            world.say("ERROR", str(error))
            return None
        world.built.append(plan)
        if world.rtx and plan.detailed:
            world.say("VERBOSE", trt_runtime.kernel_log(plan))
        token = f"engine {len(world.built)} of {world.version}".encode()
        world.plans[token] = plan
        if config._cache is not None and "DISABLE_TIMING_CACHE" not in config._flags:
            config._cache._entries += [layer.name for layer in plan.layers]
        return trt_runtime.host_memory(world, token)


def _network_state(flags: set[str]) -> dict[str, Any]:
    return {
        "flags": flags,
        "inputs": [],
        "outputs": [],
        "layers": [],
        "tensors": {},
        "debug": [],
        "unfused": False,
        "parser": None,
        "model": None,
    }


def _config_state() -> dict[str, Any]:
    return {
        "flags": {"TF32"},
        "profiles": [],
        "cache": None,
        "selector": None,
        "previews": {},
        "route": "",
        "verbosity": "LAYER_NAMES_ONLY",
        "calibrator": None,
        "calibration_profile": None,
        "workspace": None,
        "level": 3,
        "iterations": 1,
        "sources": None,
        "hardware": None,
        "capabilities": [],
    }


class IBuilderConfig:
    def set_flag(self: Any, flag: Any) -> None:
        self._flags.add(self._world.member("BuilderFlag", flag))

    def clear_flag(self: Any, flag: Any) -> None:
        self._flags.discard(self._world.member("BuilderFlag", flag))

    def get_flag(self: Any, flag: Any) -> bool:
        return self._world.member("BuilderFlag", flag) in self._flags

    @property
    def profiling_verbosity(self: Any) -> Any:
        return self._world.trt.ProfilingVerbosity.__members__[self._verbosity]

    @profiling_verbosity.setter
    def profiling_verbosity(self: Any, value: Any) -> None:
        self._verbosity = self._world.member("ProfilingVerbosity", value)

    @property
    def builder_optimization_level(self: Any) -> int:
        return int(self._level)

    @builder_optimization_level.setter
    def builder_optimization_level(self: Any, value: int) -> None:
        self._level = value

    @property
    def avg_timing_iterations(self: Any) -> int:
        return int(self._iterations)

    @avg_timing_iterations.setter
    def avg_timing_iterations(self: Any, value: int) -> None:
        self._iterations = value

    @property
    def hardware_compatibility_level(self: Any) -> Any:
        return self._hardware

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self: Any, value: Any) -> None:
        self._hardware = self._world.member("HardwareCompatibilityLevel", value)

    @property
    def num_compute_capabilities(self: Any) -> int:
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self: Any, value: int) -> None:
        self._capabilities = [None] * value

    def set_compute_capability(self: Any, compute_capability: Any, index: int) -> bool:
        self._capabilities[index] = self._world.member("ComputeCapability", compute_capability)
        return self._capabilities[index] != "NONE"

    @property
    def int8_calibrator(self: Any) -> Any:
        return self._calibrator

    @int8_calibrator.setter
    def int8_calibrator(self: Any, value: Any) -> None:
        self._calibrator = self._world.callback(value, "IInt8EntropyCalibrator2")

    @property
    def algorithm_selector(self: Any) -> Any:
        return self._selector

    @algorithm_selector.setter
    def algorithm_selector(self: Any, value: Any) -> None:
        self._selector = self._world.callback(value, "IAlgorithmSelector")

    @property
    def build_route(self: Any) -> str:
        return str(self._route)

    @build_route.setter
    def build_route(self: Any, value: str) -> None:
        self._route = value

    @property
    def all_build_routes(self: Any) -> str:
        return (
            '{"tuner_version": "1", "tuner_options": [{"option": "-fuse", "allowed_values": "[on|off]", '
            '"default_value": "on"}, {"option": "-depth", "allowed_values": "[0...9]", "default_value": "4"}]}'
        )

    def set_preview_feature(self: Any, feature: Any, enable: bool) -> None:
        self._previews[self._world.member("PreviewFeature", feature)] = enable

    def set_memory_pool_limit(self: Any, pool: Any, pool_size: int) -> None:
        assert self._world.member("MemoryPoolType", pool) == "WORKSPACE"
        self._workspace = pool_size

    def set_tactic_sources(self: Any, tactic_sources: int) -> bool:
        self._sources = self._world.members_of("TacticSource", tactic_sources)
        return True

    def get_tactic_sources(self: Any) -> int:
        members = self._world.trt.TacticSource.__members__
        wanted = members if self._sources is None else self._sources
        return sum(1 << int(members[name]) for name in wanted if name != "CUDNN" or self._sources is not None)

    def add_optimization_profile(self: Any, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_calibration_profile(self: Any, profile: Any) -> bool:
        self._calibration_profile = profile
        return True

    def create_timing_cache(self: Any, serialized_timing_cache: bytes) -> Any:
        world = self._world
        content = bytes(serialized_timing_cache)
        header = f"cache {world.version}\n".encode()
        if content and (world.refuse_cache or not content.startswith(header)):
            world.say("ERROR", "Myelin error from unknown graph. The timing cache will not be used!")
        lines = content[len(header) :].decode().split("\n") if content else []
        values = [line.split() for line in lines if line.startswith("0x")]
        return world.make(
            "ITimingCache",
            entries=[line for line in lines if not line.startswith("0x")],
            values={key: (int(tactic), float(cost)) for key, tactic, cost in values},
        )

    def set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        assert type(cache) is self._world.trt.ITimingCache
        assert ignore_mismatch is False
        self._cache = cache
        return True

    def get_timing_cache(self: Any) -> Any:
        return self._cache


class ITimingCache:
    def serialize(self: Any) -> Any:
        values = [f"{key} {tactic} {cost}" for key, (tactic, cost) in self._values.items()]
        text = "\n".join([*self._entries, *values])
        return trt_runtime.host_memory(self._world, f"cache {self._world.version}\n{text}".encode())

    def queryKeys(self: Any) -> list[Any]:  # noqa: N802
        return [self._world.trt.TimingCacheKey.parse(key) for key in self._values]

    def query(self: Any, key: Any) -> Any:
        return self._world.trt.TimingCacheValue(*self._values.get(str(key), ((1 << 64) - 1, float("nan"))))

    def update(self: Any, key: Any, value: Any) -> bool:
        if str(key) not in self._values or value.tacticHash == (1 << 64) - 1 or value.timingMSec < 0:
            return False
        if value.timingMSec != value.timingMSec:  # a time that is not a number deletes the entry
            del self._values[str(key)]
        else:
            self._values[str(key)] = (value.tacticHash, value.timingMSec)
        return True

    def combine(self: Any, input_cache: Any, ignore_mismatch: bool) -> bool:
        assert type(input_cache) is self._world.trt.ITimingCache
        self._values.update({**input_cache._values, **self._values})
        return True


class IOptimizationProfile:
    def set_shape(self: Any, input: str, min: Any, opt: Any, max: Any) -> None:
        ranges = [tuple(int(extent) for extent in shape) for shape in (min, opt, max)]
        ordered = all(a <= b <= c for a, b, c in zip(*ranges, strict=True))
        if len({len(shape) for shape in ranges}) != 1 or not ordered:
            raise ValueError("Shape provided for min is inconsistent with other shapes")
        self._shapes[input] = ranges
