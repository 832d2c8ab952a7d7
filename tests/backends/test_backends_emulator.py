"""The emulator against a NumPy fake-cast written by hand, node by node."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from graphs import branch_and_loop, graph_model, norm_chain
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from harness.backends import Emulator, GraphRunner, Observation, Plan, Reference
from harness.errors import HarnessError, ModelError, NothingSelectedError
from harness.model import load_model, lower, round_array
from harness.tensors import Precision

LOW = [Precision.FP16, Precision.BF16, Precision.FP8]
X = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)


def by_hand(scale: float, lowered: set[str], precision: Precision) -> dict[str, np.ndarray]:
    """norm_chain in NumPy, each lowered node's inputs and output rounded."""
    model = load_model(norm_chain(scale))
    tensors = {"x": X, "scale": np.float32(scale), "w": model.weight("w")}
    steps = {
        "scaled": (("x", "scale"), np.multiply),
        "sq": (("scaled", "scaled"), np.multiply),
        "mean": (("sq",), lambda v: v.mean(-1, keepdims=True, dtype=np.float32)),
        "root": (("mean",), np.sqrt),
        "norm": (("scaled", "root"), np.divide),
        "proj": (("norm", "w"), np.matmul),
        "relu": (("proj",), lambda v: np.maximum(v, 0)),
        "y": (("relu", "x"), np.add),
    }
    with np.errstate(all="ignore"):
        for name, (reads, compute) in steps.items():
            low = name in lowered
            args = [round_array(tensors[read], precision) if low else tensors[read] for read in reads]
            value = np.asarray(compute(*args), dtype=np.float32)
            tensors[name] = round_array(value, precision) if low else value
    return tensors


@pytest.mark.parametrize("precision", LOW)
@given(lowered=st.sets(st.sampled_from(["scaled", "sq", "mean", "root", "norm", "proj", "relu", "y"])))
@settings(max_examples=25)
def test_any_choice_of_lowered_nodes_computes_what_numpy_computes(
    precision: Precision, lowered: set[str]
) -> None:
    emulator = Emulator(load_model(norm_chain(3.0)))
    names = ["scaled", "sq", "mean", "root", "norm", "proj", "relu", "y"]
    found = emulator.run({"x": X}, precision, lowered=lowered, tensors=names)
    expected = by_hand(3.0, lowered, precision)
    step = {Precision.FP16: 2.0**-10, Precision.BF16: 2.0**-7, Precision.FP8: 2.0**-2}[precision]
    for name in names:  # sums may be ordered otherwise: at most a rounding apart
        np.testing.assert_allclose(found[name], expected[name], rtol=2 * step, atol=1e-5 + step, err_msg=name)
    for name in lowered:
        np.testing.assert_array_equal(found[name], round_array(found[name], precision), err_msg=name)


@pytest.mark.parametrize("precision", [*LOW, Precision.TF32])
def test_few_sessions_serve_every_island_bit_for_bit(precision: Precision) -> None:
    for proto, x in ((norm_chain(2.0), X), (branch_and_loop(), X[:4])):
        model = load_model(proto)
        emulator = Emulator(model)
        units = emulator.units(precision)
        tensors = tuple(model.float_tensors)
        full = GraphRunner(model, lower(model, precision, tensors), precision, {})
        # All lowered, an island, one within it, others: none of them may see a switch that is set for good.
        for island in ((), units[1:3], units[1:2], units[:1], units[2:], units, units[1:3]):
            lowered = set(units) - set(island)
            found = emulator.run({"x": x}, precision, lowered=lowered, tensors=tensors)
            for name, value in full.run({"x": x}, lowered).items():
                np.testing.assert_array_equal(found[name], value, err_msg=f"{name}, {island}")
        (runners,) = emulator._runners.values()
        assert len(runners) <= 4


@pytest.mark.parametrize("precision", [*LOW, Precision.TF32])
def test_all_lowered_for_good_is_all_switched_on(precision: Precision) -> None:
    for proto, x in ((norm_chain(2.0), X), (branch_and_loop(), X[:4])):
        model = load_model(proto)
        emulator = Emulator(model)
        tensors = [*model.float_tensors]
        fixed = emulator.run({"x": x}, precision, tensors=tensors)
        graph = lower(model, precision, tensors)
        switched = GraphRunner(model, graph, precision, {}).run({"x": x}, emulator.units(precision))
        for name in tensors:
            np.testing.assert_array_equal(fixed[name], switched[name], err_msg=name)


@pytest.mark.parametrize("precision", [*LOW, Precision.TF32])
def test_nothing_lowered_is_the_reference_bit_for_bit(precision: Precision) -> None:
    model = load_model(norm_chain())
    expected = Reference(model).run({"x": X})["y"]
    np.testing.assert_array_equal(Emulator(model).run({"x": X}, precision, lowered=[])["y"], expected)


def test_the_casts_are_not_folded_away() -> None:
    model = load_model(norm_chain(600.0))
    found = Emulator(model).run({"x": X}, Precision.FP16, tensors=["sq", "scaled"])
    assert np.isinf(found["sq"]).any()
    np.testing.assert_array_equal(found["scaled"], round_array(found["scaled"], Precision.FP16))
    assert not np.array_equal(found["scaled"], Reference(model).run({"x": X}, ["scaled"])["scaled"])


def test_bf16_has_the_range_that_fp16_lacks() -> None:
    emulator = Emulator(load_model(norm_chain(600.0)))
    assert np.isfinite(emulator.run({"x": X}, Precision.BF16, tensors=["sq"])["sq"]).all()


def test_tf32_rounds_the_operands_of_products_only() -> None:
    model = load_model(norm_chain())
    emulator = Emulator(model)
    assert emulator.units(Precision.TF32) == ("proj",)
    found = emulator.run({"x": X}, Precision.TF32, tensors=["norm", "proj"])
    exact = Reference(model).run({"x": X}, ["norm", "proj"])
    np.testing.assert_array_equal(found["norm"], exact["norm"])
    operands = round_array(exact["norm"], Precision.TF32), round_array(model.weight("w"), Precision.TF32)
    np.testing.assert_allclose(found["proj"], operands[0] @ operands[1], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(found["proj"], exact["proj"])


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16])
def test_bodies_of_if_and_loop_are_lowered_with_their_node(precision: Precision) -> None:
    model = load_model(branch_and_loop())
    x = np.random.default_rng(5).standard_normal((4, 16)).astype(np.float32)
    emulator = Emulator(model)
    found = emulator.run({"x": x}, precision)["y"]
    low = lambda value: round_array(np.asarray(value, dtype=np.float32), precision)  # noqa: E731
    a = low(low(x) * low(x))
    state, w = low(a * a), low(model.weight("w"))
    for _ in range(3):
        state = low(low(state @ w) + state)
    np.testing.assert_allclose(found, state, rtol=2.0**-6, atol=2.0**-8)
    np.testing.assert_array_equal(found, low(found))
    kept = emulator.run({"x": x}, precision, lowered=["a"])["y"]
    assert not np.array_equal(kept, low(kept))


def test_in_bodies_tf32_rounds_the_operands_of_products_only() -> None:
    model = load_model(branch_and_loop())
    x = np.random.default_rng(5).standard_normal((4, 16)).astype(np.float32)
    emulator = Emulator(model)
    assert emulator.units(Precision.TF32) == ("loop",)
    found = emulator.run({"x": x}, Precision.TF32)["y"]
    state, w = (x * x) ** 2, round_array(model.weight("w"), Precision.TF32)
    for _ in range(3):
        state = round_array(state, Precision.TF32) @ w + state
    np.testing.assert_allclose(found, state, rtol=1e-5, atol=1e-5)


def test_quantised_graphs_run_as_they_are() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="d"),
        helper.make_node("Relu", ["d"], ["y"], name="y"),
    ]
    weights = {"scale": np.float32(0.0301), "zero": np.int8(0)}
    model = load_model(graph_model(nodes, inputs={"x": [5, 16]}, outputs={"y": [5, 16]}, weights=weights))
    emulator = Emulator(model)
    assert emulator.units(Precision.FP16) == ("y",)
    assert emulator.units(Precision.INT8) == ()
    exact = Reference(model).run({"x": X})["y"]
    np.testing.assert_array_equal(emulator.run({"x": X}, Precision.INT8)["y"], exact)


def test_shape_arithmetic_and_integers_are_never_lowered() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Cast", ["shape"], ["shape_f"], name="shape_f", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["shape_f", "ones"], ["sizes_f"], name="sizes_f"),
        helper.make_node("Cast", ["sizes_f"], ["sizes"], name="sizes", to=TensorProto.INT64),
        helper.make_node("Expand", ["x", "sizes"], ["y"], name="y"),
    ]
    weights = {"ones": np.ones(2, dtype=np.float32)}
    model = load_model(
        graph_model(nodes, inputs={"x": [1, 4097]}, outputs={"y": ["a", "b"]}, weights=weights)
    )
    assert [node.name for node in model.lowerable] == ["y"]
    x = np.ones(
        (1, 4097), dtype=np.float32
    )  # 4097 is no FP16 number: rounding the shape would break the Expand
    assert Emulator(model).run({"x": x}, Precision.FP16)["y"].shape == (1, 4097)


def test_introduced_error_is_that_of_the_node_alone() -> None:
    model = load_model(norm_chain(600.0))
    exact, low = Emulator(model).introduced({"x": X}, Precision.FP16, [node.name for node in model.nodes])
    reference = Reference(model).run({"x": X}, ["sq", "mean", "norm"])
    for name, value in reference.items():
        np.testing.assert_array_equal(exact[name], value)
    assert np.isinf(low["sq"]).any()
    np.testing.assert_allclose(low["norm"], reference["norm"], rtol=2e-3)  # its reference inputs are sound


@pytest.mark.parametrize("precision", LOW)
def test_introduced_error_of_every_node_is_that_of_a_graph_in_which_it_alone_is_lowered(
    precision: Precision,
) -> None:
    model = load_model(norm_chain(2.0))
    emulator = Emulator(model)
    exact, low = emulator.introduced({"x": X}, precision, emulator.units(precision))
    assert list(low) == ["scaled", "sq", "mean", "root", "norm", "proj", "relu", "y"]
    for name in low:
        writer = model.producer(name)
        alone = emulator.run({"x": X}, precision, lowered=[writer.name], tensors=[name])
        np.testing.assert_array_equal(low[name], alone[name], err_msg=name)
        np.testing.assert_array_equal(exact[name], Reference(model).run({"x": X}, [name])[name])


def split_and_topk() -> ModelProto:
    """Nodes of several outputs, of which one may be known and the other not, and weights that are not rounded."""
    nodes = [
        helper.make_node("Split", ["x"], ["left", "right"], name="split", axis=1),
        helper.make_node("TopK", ["left", "k"], ["top", "places"], name="topk"),
        helper.make_node("GatherElements", ["right", "places"], ["taken"], name="taken", axis=1),
        helper.make_node("Flatten", ["taken"], ["flat"], name="flat"),
        helper.make_node("BatchNormalization", ["flat", "one", "one", "w", "one"], ["even"], name="even"),
        helper.make_node("Mul", ["even", "top"], ["y"], name="y"),
    ]
    values = np.random.default_rng(3).standard_normal(600).astype(np.float32)
    weights = {"k": np.array([4], np.int64), "one": np.ones(4, np.float32), "w": values[:4]}
    return graph_model(nodes, inputs={"x": [5, 16]}, outputs={"y": [5, 4]}, weights=weights)


@pytest.mark.parametrize("precision", [*LOW, Precision.TF32])
@pytest.mark.parametrize("make", [norm_chain, split_and_topk, branch_and_loop])
def test_introduced_error_does_not_depend_on_which_tensors_of_the_reference_are_known(
    make: Callable[[], ModelProto], precision: Precision
) -> None:
    model = load_model(make())
    feeds = {"x": np.random.default_rng(5).standard_normal((4 if make is branch_and_loop else 5, 16))}
    feeds = {"x": feeds["x"].astype(np.float32)}
    reference = Reference(model).run(feeds, model.float_tensors)
    emulator = Emulator(model)
    units = emulator.units(precision)
    if not units:
        return
    exact, low = emulator.introduced(feeds, precision, units)
    for left_out in ("", *reference, "all"):
        known = {name: value for name, value in reference.items() if left_out not in (name, "all")}
        again, once_more = emulator.introduced(feeds, precision, units, known)
        assert list(once_more) == list(low)
        for name in low:
            np.testing.assert_array_equal(once_more[name], low[name], err_msg=f"{name} without {left_out}")
            np.testing.assert_array_equal(again[name], exact[name])


def test_introduced_error_of_a_loop_is_measured_inside_its_body() -> None:
    model = load_model(branch_and_loop())
    x = np.random.default_rng(5).standard_normal((4, 16)).astype(np.float32)
    exact, low = Emulator(model).introduced({"x": x}, Precision.FP16, ["loop"])
    assert 0 < np.abs(exact["y"] - low["y"]).max() < 0.05 * np.abs(exact["y"]).max()


def test_evaluate_keeps_islands_in_fp32_and_observes_what_is_marked() -> None:
    model = load_model(norm_chain(600.0))
    emulator = Emulator(model)
    plan = Plan(
        Precision.FP16,
        islands=frozenset({"sq", "mean", "root"}),
        observation=Observation.TYPED,
        marks=frozenset({"sq"}),
    )
    evaluation = emulator.evaluate(plan, {"x": X})
    assert set(evaluation.tensors) == {"y", "sq"}
    assert np.isfinite(evaluation.tensors["sq"]).all()


def test_an_island_that_is_no_node_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(NothingSelectedError, match="did you mean `mean`"):
        Emulator(load_model(norm_chain())).evaluate(Plan(Precision.FP16, frozenset({"meann"})), {"x": X})


def test_a_scalar_tensor_stays_a_scalar() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], name="total", keepdims=0),
        helper.make_node("Mul", ["total", "total"], ["y"], name="y"),
    ]
    model = load_model(graph_model(nodes, inputs={"x": [5, 16]}, outputs={"y": []}))
    assert Emulator(model).run({"x": X}, Precision.FP16)["y"].shape == ()


def test_a_weight_with_two_readers_is_rounded_for_the_lowered_one_only() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="a"),
        helper.make_node("MatMul", ["x", "w"], ["b"], name="b"),
        helper.make_node("Sub", ["a", "b"], ["y"], name="y"),
    ]
    w = np.random.default_rng(2).standard_normal((16, 16)).astype(np.float32)
    model = load_model(graph_model(nodes, inputs={"x": [5, 16]}, outputs={"y": [5, 16]}, weights={"w": w}))
    emulator = Emulator(model)
    assert np.abs(emulator.run({"x": X}, Precision.FP16, lowered=["a"])["y"]).max() > 0
    assert np.abs(emulator.run({"x": X}, Precision.FP16, lowered=["a", "b"])["y"]).max() == 0


def test_an_operator_that_onnx_runtime_lacks_is_named() -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="y", domain="com.example")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 16])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    model = load_model(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    with pytest.raises(ModelError, match="Frobnicate"):
        Reference(model).run({"x": X})


KEPT = Path(__file__).parent / "data" / "tf32_convolutions.npz"
"""What an H200 computed with TensorRT for RTX, 1.4 and 1.6 alike: x, w and y of convolutions with 3 × 3 kernels."""


@pytest.mark.parametrize(("kept", "cuts"), [("k3_3", True), ("k3_16", True), ("k3_64", False)])
@pytest.mark.parametrize("switched", [False, True])
def test_tf32_beside_an_engine_is_what_a_gpu_computed(kept: str, cuts: bool, switched: bool) -> None:
    with np.load(KEPT) as arrays:
        x, w, y = (arrays[f"{kept}.{name}"] for name in "xwy")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w"], ["z"], name="other", pads=[1, 1, 1, 1]),
    ]
    shapes = {"y": list(y.shape), "z": list(y.shape)}
    model = load_model(graph_model(nodes, inputs={"x": list(x.shape)}, outputs=shapes, weights={"w": w}))
    lowered = ["conv"] if switched else None

    def error(emulator: Emulator) -> float:
        found = emulator.run({"x": x}, Precision.TF32, lowered=lowered)["y"]
        return float(np.linalg.norm(found - y) / np.linalg.norm(y))

    assert error(Emulator(model, as_kernels=True)) < 3e-6
    assert (error(Emulator(model)) > 5e-4) is cuts
    if cuts and switched:  # what is not lowered is exact
        exact = Reference(model).run({"x": x})["z"]
        found = Emulator(model, as_kernels=True).run({"x": x}, Precision.TF32, lowered=lowered)["z"]
        np.testing.assert_array_equal(found, exact)


def test_only_tf32_rounds_toward_zero_beside_an_engine() -> None:
    with np.load(KEPT) as arrays:
        x, w = arrays["k3_16.x"], arrays["k3_16.w"]
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])
    model = load_model(
        graph_model([node], inputs={"x": list(x.shape)}, outputs={"y": [1, 2, 16, 16]}, weights={"w": w})
    )
    plain, beside = (
        emulator.run({"x": x}, Precision.FP16)["y"]
        for emulator in (Emulator(model), Emulator(model, as_kernels=True))
    )
    np.testing.assert_array_equal(plain, beside)


ISLANDS = [("sq",), ("mean",), ("sq", "mean"), ("norm",)]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_THREADS", "2")
    monkeypatch.setattr("harness.backends.emulator.mean_size", lambda model: 80.0)  # its batch is open


def chosen(emulator: Emulator) -> list[frozenset[str]]:
    return [frozenset(emulator.units(Precision.FP16)) - set(island) for island in ISLANDS]


def test_what_is_run_ahead_is_what_is_computed_when_it_is_asked_for(
    two_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Emulator(load_model(norm_chain(2.0))) for _ in range(2))
    feeds = {"x": X}
    run, threads = GraphRunner.run, set()

    def watched(self: GraphRunner, *given: object, **more: object) -> dict[str, np.ndarray]:
        threads.add(threading.current_thread().name.rstrip("0123456789"))
        return run(self, *given, **more)  # type: ignore[arg-type]

    expected = [first.run(feeds, Precision.FP16, lowered=lowered) for lowered in chosen(first)]
    monkeypatch.setattr(GraphRunner, "run", watched)
    second.run_ahead(feeds, Precision.FP16, chosen(second))
    assert second.evaluations == 0, "nobody has asked yet"
    found = [second.run(feeds, Precision.FP16, lowered=lowered) for lowered in chosen(second)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["y"], other["y"])
    assert threads == {"emulated ahead_"}
    assert second.evaluations == len(ISLANDS)


def test_what_is_run_ahead_and_not_asked_for_goes(two_cores: None) -> None:
    emulator, feeds, other = Emulator(load_model(norm_chain(2.0))), {"x": X}, {"x": X[::-1].copy()}
    lowered = chosen(emulator)
    expected = Emulator(load_model(norm_chain(2.0))).run(other, Precision.FP16, lowered=lowered[0])
    emulator.run_ahead(feeds, Precision.FP16, lowered)
    np.testing.assert_array_equal(
        emulator.run(other, Precision.FP16, lowered=lowered[0])["y"], expected["y"], "other inputs"
    )
    assert emulator._ahead is not None
    units = emulator.units(Precision.FP16)
    emulator.run(feeds, Precision.FP16, lowered=units)  # which nobody foresaw
    assert not emulator._ahead._begun
    assert not emulator._ahead._left
    emulator.close()


def test_a_node_that_fails_ahead_says_so_when_it_is_asked_for(two_cores: None) -> None:
    emulator = Emulator(load_model(norm_chain(2.0)))
    emulator.run_ahead({"x": X[:, :3]}, Precision.FP16, chosen(emulator))  # a wrong shape
    begun = emulator._ahead
    assert begun is not None
    with pytest.raises(HarnessError):
        begun.take(begun._key, begun._feeds, chosen(emulator)[0])


@pytest.mark.parametrize(("threads", "size", "begun"), [("8", 80.0, 4), ("8", 1e5, 2), ("2", 80.0, 2)])
def test_as_many_are_begun_as_leave_each_inference_its_threads(
    monkeypatch: pytest.MonkeyPatch, threads: str, size: float, begun: int
) -> None:
    monkeypatch.setenv("HARNESS_THREADS", threads)
    monkeypatch.setattr("harness.backends.emulator.mean_size", lambda model: size)
    emulator, feeds = Emulator(load_model(norm_chain(2.0))), {"x": X}
    under_way, most = 0, 0
    run, lock, together = GraphRunner.run, threading.Lock(), threading.Barrier(begun, timeout=20)

    def watched(self: GraphRunner, *given: object, **more: object) -> dict[str, np.ndarray]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait()
        found = run(self, *given, **more)  # type: ignore[arg-type]
        with lock:
            under_way -= 1
        return found

    monkeypatch.setattr(GraphRunner, "run", watched)
    emulator.run_ahead(feeds, Precision.FP16, chosen(emulator))
    for lowered in chosen(emulator):
        emulator.run(feeds, Precision.FP16, lowered=lowered)
    assert most == begun
    emulator.close()


@pytest.mark.parametrize("threads", ["1", "2"])
def test_one_session_serves_what_is_foreseen_where_the_largest_island_holds_the_others(
    monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("HARNESS_THREADS", threads)
    monkeypatch.setattr("harness.backends.emulator.mean_size", lambda model: 80.0)
    emulator, feeds = Emulator(load_model(norm_chain(2.0))), {"x": X}
    lowered = chosen(emulator)[:3]  # the third is the island of both
    emulator.run_ahead(feeds, Precision.FP16, lowered)
    for each in lowered:
        emulator.run(feeds, Precision.FP16, lowered=each)
    assert [len(runners) for runners in emulator._runners.values()] == [1]
    emulator.close()


@pytest.mark.parametrize(("threads", "size"), [("1", 80.0), ("2", 1e5), ("2", None)])
def test_nothing_is_begun_where_an_inference_has_all_cores(
    monkeypatch: pytest.MonkeyPatch, threads: str, size: float | None
) -> None:
    monkeypatch.setenv("HARNESS_THREADS", threads)
    monkeypatch.setattr("harness.backends.emulator.mean_size", lambda model: size)
    emulator = Emulator(load_model(norm_chain(2.0)))
    emulator.run_ahead({"x": X}, Precision.FP16, chosen(emulator))
    assert emulator._ahead is None
