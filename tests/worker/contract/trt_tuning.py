"""How the doubles behave: tuning. Each engine layer has a few candidates, is timed with noise, and takes the fastest.

An algorithm selector is asked for each layer, and learns what was taken. With the editable timing cache, an operator
that the cache holds is not tuned; one that is leaves the documented table in the VERBOSE log.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

_LAYOUTS = {"LINEAR": (-1, 1), "CHW16": (1, 16), "HWC8": (1, 8)}


@dataclass(frozen=True)
class Candidate:
    """One implementation of a layer: identifiers, the kernel's name, milliseconds without noise, and a layout."""

    implementation: int
    tactic: int
    kernel: str
    milliseconds: float
    layout: str = "LINEAR"


class CacheMiss(Exception):
    """The timing cache has no entry for an operator, or one that it cannot use, and that is an error."""


def candidates(layer: Any) -> list[Candidate]:
    """What there is for a layer: four for a convolution, two for others; the first is the fastest but for noise."""
    if layer.kind != "CaskConvolution":
        return [Candidate(1, 0, "", 0.01), Candidate(2, 1, "", 0.0101)]
    seed = int(hashlib.sha256(layer.name.encode()).hexdigest()[:14], 16)
    plain = layer.tactic
    return [
        Candidate(-2147483639, seed, plain, 0.02),
        Candidate(-2147483639, seed + 1, f"{plain}_v1", 0.0202),
        Candidate(-2147483639, -seed, f"{plain}_v2", 0.0204),
        Candidate(7, seed, f"{plain}_chw16", 0.03, "CHW16"),
    ]


def tune(layers: list[Any], network: Any, config: Any, world: Any) -> None:
    """Choose a candidate for every layer.

    Raises:
        CacheMiss: see there.
    """
    shapes = {tensor._name: tensor._shape for tensor in network._tensors.values()}
    contexts, taken = [], []
    for layer in layers:
        offered = world.candidates(layer)
        if _is_cached(layer, config):
            offered = offered[:1]
        context = _context(layer, shapes, world)
        if "EDITABLE_TIMING_CACHE" in config._flags and config._cache is not None:
            chosen = _by_cache(layer, offered, config, world)
        else:
            allowed = _allowed(layer, offered, context, config._selector, world)
            chosen = min(allowed, key=lambda each: _time(each, world))
        layer.tactic, layer.tactic_id = chosen.kernel, chosen.tactic
        contexts.append(context)
        taken.append(_algorithm(chosen, layer, shapes, world, timed=True))
    if config._selector is not None:
        config._selector.report_algorithms(contexts, taken)


def _is_cached(layer: Any, config: Any) -> bool:
    """Whether a selector is offered what the timing cache has, and nothing else."""
    if config._selector is None or config._cache is None or "DISABLE_TIMING_CACHE" in config._flags:
        return False
    return layer.name in config._cache._entries


def _time(candidate: Candidate, world: Any) -> float:
    return float(candidate.milliseconds * (1 + world.noise * world.random.uniform(-1, 1)))


def _allowed(
    layer: Any, offered: list[Candidate], context: Any, selector: Any, world: Any
) -> list[Candidate]:
    if selector is None:
        return offered
    shapes = context._all_shapes
    answer = selector.select_algorithms(
        context, [_algorithm(each, layer, shapes, world, timed=False) for each in offered]
    )
    assert answer, "an empty answer leaves the layer to a default, or fails the build"
    assert all(0 <= index < len(offered) for index in answer)
    return [offered[index] for index in answer] if layer.name not in world.deaf else offered


def key_of(layer: Any) -> str:
    """The key of a layer in the timing cache."""
    return "0x" + hashlib.md5(f"{layer.name} {layer.inputs} {layer.outputs}".encode()).hexdigest()


def _by_cache(layer: Any, offered: list[Candidate], config: Any, world: Any) -> Candidate:
    key, cache = key_of(layer), config._cache
    found = next((each for each in offered if cache._values.get(key, (None,))[0] == hash_of(each)), None)
    if found is not None and layer.name not in world.deaf:
        return found
    if found is None and key in cache._values:
        raise CacheMiss(f"{layer.name} cannot use the tactic that the timing cache has for it")
    if found is None and "ERROR_ON_TIMING_CACHE_MISS" in config._flags:
        raise CacheMiss(f"Timing cache miss for {layer.name}")
    timed = sorted((_time(each, world), index) for index, each in enumerate(offered))
    best, fastest = offered[timed[0][1]], timed[0][0]
    rows = [
        f"{index:4d}, {cost:.7f}, {cost / fastest:.5f}, 0.50000, {offered[index].kernel or 'generated'}, "
        f"{hash_of(offered[index]):#x}, "
        for cost, index in timed
    ]
    columns = ("tactic_id", "cost(in ms)", "cost/fastest_cost", "prediction_correlation", "kernel_name")
    header = ", ".join((*columns, "tactic_hash", "tunable_parameter"))
    for line in (
        f"Autotuning op {layer.name}(key: {key}): {layer.metadata}",
        "\n".join(["Sorted table of all evaluated tactics:", header, *rows]),
        f"The selected tactic is (tactic hash, cost(in ms)):{hash_of(best):#x},  {fastest:.6f}",
        f"Writing the best tactic ({hash_of(best):#x}) to cache",
    ):
        world.say("VERBOSE", line)
    cache._values[key] = (hash_of(best), fastest)
    return best


def hash_of(candidate: Candidate) -> int:
    """The tactic's hash in the timing cache."""
    return hash((candidate.implementation, candidate.tactic)) & 0xFFFFFFFFFFFF


def _context(layer: Any, shapes: dict[str, Any], world: Any) -> Any:
    if "IAlgorithmContext" not in _names(world):
        return None
    return world.make(
        "IAlgorithmContext",
        name=layer.name,
        shapes=[shapes.get(name) for name, _ in (*layer.inputs, *layer.outputs)],
        reads=len(layer.inputs),
        writes=len(layer.outputs),
        all_shapes=shapes,
    )


def _algorithm(candidate: Candidate, layer: Any, shapes: dict[str, Any], world: Any, *, timed: bool) -> Any:
    if "IAlgorithm" not in _names(world):
        return None
    forms = [
        world.make(
            "IAlgorithmIOInfo",
            dtype=dtype,
            layout=candidate.layout,
            strides=_strides(shapes.get(name) or ()),
        )
        for name, dtype in (*layer.inputs, *layer.outputs)
    ]
    variant = world.make(
        "IAlgorithmVariant", implementation=candidate.implementation, tactic=candidate.tactic
    )
    milliseconds = _time(candidate, world) if timed else 0.0
    return world.make("IAlgorithm", variant=variant, forms=forms, milliseconds=milliseconds)


def _names(world: Any) -> Any:
    import trt_double

    return trt_double.names(world.version)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.insert(0, step)
        step *= max(extent, 1)
    return tuple(strides)


class IAlgorithmSelector:
    def __init__(self) -> None:
        self._initialised = True

    def select_algorithms(self: Any, context: Any, choices: Any) -> Any:
        raise NotImplementedError("pure virtual")

    def report_algorithms(self: Any, contexts: Any, choices: Any) -> None:
        raise NotImplementedError("pure virtual")


class IAlgorithmContext:
    @property
    def name(self: Any) -> str:
        return str(self._name)

    @property
    def num_inputs(self: Any) -> int:
        return int(self._reads)

    @property
    def num_outputs(self: Any) -> int:
        return int(self._writes)

    def get_shape(self: Any, index: int) -> list[tuple[int, ...]]:
        shape = self._shapes[index]
        return [] if shape is None else [tuple(shape)] * 3


class IAlgorithm:
    @property
    def algorithm_variant(self: Any) -> Any:
        return self._variant

    @property
    def timing_msec(self: Any) -> float:
        return float(self._milliseconds)

    def get_algorithm_io_info(self: Any, index: int) -> Any:
        return self._forms[index]


class IAlgorithmVariant:
    @property
    def implementation(self: Any) -> int:
        return int(self._implementation)

    @property
    def tactic(self: Any) -> int:
        return int(self._tactic)


class IAlgorithmIOInfo:
    @property
    def dtype(self: Any) -> Any:
        return self._world.trt.DataType.__members__[self._dtype]

    @property
    def strides(self: Any) -> tuple[int, ...]:
        return tuple(self._strides)

    @property
    def tensor_format(self: Any) -> Any:
        return self._world.trt.TensorFormat.__members__[self._layout]

    @property
    def vectorized_dim(self: Any) -> int:
        return _LAYOUTS[self._layout][0]

    @property
    def components_per_element(self: Any) -> int:
        return _LAYOUTS[self._layout][1]


class TimingCacheKey:
    def parse(world: Any, text: str) -> Any:  # noqa: N805  # static, but for the world
        if len(text) != 34 or not text.startswith("0x"):
            raise ValueError(f"{text!r} is no key of a timing cache")
        return world.make("TimingCacheKey", text=text)

    def __str__(self: Any) -> str:
        return str(self._text)


class TimingCacheValue:
    def __init__(self: Any, tacticHash: int, timingMSec: float) -> None:  # noqa: N803
        assert 0 <= tacticHash < 1 << 64
        self._hash, self._milliseconds = tacticHash, timingMSec

    @property
    def tacticHash(self: Any) -> int:  # noqa: N802
        return int(self._hash)

    @property
    def timingMSec(self: Any) -> float:  # noqa: N802
        return float(self._milliseconds)
