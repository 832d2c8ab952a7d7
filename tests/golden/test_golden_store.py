"""Golden references: what they notice, what they forgive, and who may rewrite them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.errors import GoldenError
from harness.golden import GoldenState, GoldenStore, Provenance

PROVENANCE = Provenance("a" * 64, "b" * 64, onnxruntime="1.20.0", cpu="a processor", harness="0.1.0")
Outputs = list[dict[str, np.ndarray]]


@pytest.fixture(autouse=True)
def _not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> GoldenStore:
    return GoldenStore(tmp_path / "golden")


@pytest.fixture
def outputs() -> Outputs:
    rng = np.random.default_rng(3)
    return [
        {
            "logits": rng.standard_normal((4, 10)).astype(np.float32),
            "label": rng.integers(0, 9, 4),
            "mask": rng.random(4) > 0.5,
            "image": rng.standard_normal((3, 100, 100)).astype(np.float32),
        }
        for _ in range(2)
    ]


def changed(outputs: Outputs, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Outputs:
    """The outputs with one of the second sample changed."""
    return [outputs[0], {**outputs[1], name: change(outputs[1][name].copy())}]


def one_element(value: float, place: int = 5) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.reshape(-1)[place] = value
        return array

    return change


class TestCheck:
    def test_missing(self, store: GoldenStore, outputs: Outputs) -> None:
        status = store.check("mlp", PROVENANCE, outputs)
        assert (status.state, status.ok) == (GoldenState.MISSING, False)
        assert "--golden-update" in (status.message or "")

    def test_the_same_bits(self, store: GoldenStore, outputs: Outputs) -> None:
        store.update("mlp", PROVENANCE, outputs)
        status = store.check("mlp", PROVENANCE, outputs)
        assert (status.state, status.ok, status.message) == (GoldenState.SAME, True, None)

    @pytest.mark.parametrize("name", ["logits", "image"])
    def test_rounding_is_reported_and_accepted(self, store: GoldenStore, outputs: Outputs, name: str) -> None:
        store.update("mlp", PROVENANCE, outputs)
        now = dataclasses.replace(PROVENANCE, onnxruntime="1.21.0")
        status = store.check("mlp", now, changed(outputs, name, lambda x: x * np.float32(1 + 1e-6)))
        assert (status.state, status.ok) == (GoldenState.ROUNDING, True)
        assert f"output '{name}' of sample 1: nrmse 9" in (status.message or "")
        assert "ONNX Runtime: 1.20.0 → 1.21.0" in (status.message or "")

    @pytest.mark.parametrize(
        ("name", "change", "detail"),
        [
            ("logits", lambda x: x * np.float32(1.001), "nrmse 0.001"),
            ("logits", one_element(50.0), "nrmse"),
            ("logits", one_element(np.nan), "not finite"),
            ("logits", lambda x: x[:2], r"float32\[4, 10\] is float32\[2, 10\] now"),
            ("logits", lambda x: x.astype(np.float64), r"is float64\[4, 10\] now"),
            ("label", one_element(77, 0), "25.00% of the elements differ"),
            ("mask", np.invert, "100.00% of the elements differ"),
            ("image", lambda x: x * np.float32(1.001), "nrmse 0.001"),
            ("image", lambda x: x + np.float32(1e-4), "nrmse 0.0001"),
            ("image", one_element(50.0, 12_345), "max .* is 50 now"),
        ],
    )
    def test_another_answer(
        self,
        store: GoldenStore,
        outputs: Outputs,
        name: str,
        change: Callable[[np.ndarray], np.ndarray],
        detail: str,
    ) -> None:
        store.update("mlp", PROVENANCE, outputs)
        status = store.check("mlp", PROVENANCE, changed(outputs, name, change))
        assert (status.state, status.ok) == (GoldenState.CHANGED, False)
        assert [output.what for output in status.outputs] == [f"output '{name}' of sample 1"]
        assert re.search(detail, status.outputs[0].detail), status
        assert "Model, inputs, ONNX Runtime and processor are the same" in (status.message or "")

    def test_half_precision_is_compared_within_its_own_resolution(self, store: GoldenStore) -> None:
        half = np.linspace(1, 2, 100, dtype=np.float16)
        store.update("half", PROVENANCE, [{"y": half}])
        assert (
            store.check("half", PROVENANCE, [{"y": half + np.float16(2**-11)}]).state is GoldenState.ROUNDING
        )
        assert store.check("half", PROVENANCE, [{"y": half * np.float16(1.01)}]).state is GoldenState.CHANGED

    @pytest.mark.parametrize(("before", "after"), [(1e4, 0), (0, 1e4), (-1e4, 0), (0, -1e4), (0, np.nan)])
    def test_statistics_reveal_a_change_in_elements_that_were_not_kept(
        self, store: GoldenStore, before: float, after: float
    ) -> None:
        golden = np.random.default_rng(5).standard_normal(1 << 20).astype(np.float32)
        fresh = golden.copy()
        golden[12_345], fresh[12_345] = before, after
        store.update("big", PROVENANCE, [{"y": golden}])
        status = store.check("big", PROVENANCE, [{"y": fresh}])
        assert status.state is GoldenState.CHANGED
        detail = status.outputs[0].detail
        assert re.search("nonfinite 0 is 1 now" if np.isnan(after) else "(min|max) .* is .* now", detail)

    def test_one_other_answer_among_roundings_is_reported_first(self, store: GoldenStore) -> None:
        golden = {name: np.arange(1, 9, dtype=np.float32) for name in "abc"}
        store.update("three", PROVENANCE, [golden])
        fresh = {name: values * np.float32(1 + 1e-6) for name, values in golden.items()}
        assert store.check("three", PROVENANCE, [fresh]).state is GoldenState.ROUNDING
        status = store.check("three", PROVENANCE, [{**fresh, "c": -golden["c"]}])
        assert (status.state, status.ok) == (GoldenState.CHANGED, False)
        assert "any more: output 'c' of sample 0: nrmse 2" in (status.message or "")
        assert "; and 1 more output. " in (status.message or "")

    def test_what_changed_is_named(self, store: GoldenStore, outputs: Outputs) -> None:
        store.update("mlp", PROVENANCE, outputs)
        now = Provenance("c" * 64, "d" * 64, onnxruntime="1.21.0", cpu="another", harness="0.2.0")
        status = store.check("mlp", now, changed(outputs, "logits", np.negative))
        assert [cause.what for cause in status.causes] == ["model", "inputs", "ONNX Runtime", "processor"]
        assert "model: aaaaaaaaaaaa → cccccccccccc" in (status.message or "")

    def test_a_model_that_changed_without_another_answer_is_the_same(
        self, store: GoldenStore, outputs: Outputs
    ) -> None:
        store.update("mlp", PROVENANCE, outputs)
        status = store.check("mlp", dataclasses.replace(PROVENANCE, model_sha256="c" * 64), outputs)
        assert (status.state, status.message) == (GoldenState.SAME, None)
        assert [cause.what for cause in status.causes] == ["model"]

    def test_outputs_and_samples_that_come_and_go(self, store: GoldenStore, outputs: Outputs) -> None:
        store.update("mlp", PROVENANCE, outputs)
        fewer = store.check("mlp", PROVENANCE, outputs[:1])
        assert {output.detail for output in fewer.outputs} == {"is gone"}
        more = store.check("mlp", PROVENANCE, [*outputs, {"logits": np.ones(1)}])
        assert [str(output) for output in more.outputs] == ["output 'logits' of sample 2: is new"]
        assert not fewer.ok
        assert not more.ok
        assert "and 2 more outputs" in (fewer.message or "")


class TestFiles:
    def test_large_outputs_are_kept_in_part(self, store: GoldenStore) -> None:
        large = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
        store.update("big", PROVENANCE, [{"y": large}])
        assert sum(path.stat().st_size for path in (store.root / "big").iterdir()) < 16 << 10
        assert store.check("big", PROVENANCE, [{"y": large}]).state is GoldenState.SAME

    def test_the_description_is_for_people_to_review(self, store: GoldenStore, outputs: Outputs) -> None:
        store.update("mlp", PROVENANCE, outputs)
        document = json.loads((store.root / "mlp" / "reference.json").read_text())
        assert document["format"] == "harness.golden/1"
        assert (document["onnxruntime"], document["model_sha256"]) == ("1.20.0", "a" * 64)
        assert document["outputs"][0]["tensor"] == "logits"
        assert document["outputs"][0]["kept"] == "whole"
        assert document["outputs"][3]["kept"] == "elements"
        assert document["outputs"][0]["statistics"]["nonfinite"] == 0

    @pytest.mark.parametrize("file", ["reference.json", "reference.safetensors"])
    @pytest.mark.parametrize("damage", [b"", b"{}", None])
    def test_a_damaged_reference_is_named_and_can_be_rewritten(
        self, store: GoldenStore, outputs: Outputs, file: str, damage: bytes | None
    ) -> None:
        store.update("mlp", PROVENANCE, outputs)
        path = store.root / "mlp" / file
        if damage is not None:
            path.write_bytes(damage)
        elif file.endswith("json"):
            path.write_text(path.read_text().replace('"harness.golden/1"', '"harness.golden/2"'))
        else:
            path.unlink()
        with pytest.raises(GoldenError, match="is damaged") as caught:
            store.check("mlp", PROVENANCE, outputs)
        assert str(caught.value).startswith(str(store.root / "mlp"))
        assert not store.update("mlp", PROVENANCE, outputs).ok
        assert store.check("mlp", PROVENANCE, outputs).state is GoldenState.SAME

    def test_values_that_are_not_those_described(self, store: GoldenStore, outputs: Outputs) -> None:
        store.update("mlp", PROVENANCE, outputs)
        store.update("other", PROVENANCE, changed(outputs, "logits", np.negative))
        name = "reference.safetensors"
        (store.root / "mlp" / name).write_bytes((store.root / "other" / name).read_bytes())
        with pytest.raises(GoldenError, match="'1/logits' are not those described"):
            store.check("mlp", PROVENANCE, outputs)

    @pytest.mark.parametrize(("name", "value"), [("dtype", "float16"), ("shape", [4, 9]), ("sha256", "0")])
    def test_a_description_that_is_not_of_the_values(
        self, store: GoldenStore, outputs: Outputs, name: str, value: object
    ) -> None:
        store.update("mlp", PROVENANCE, outputs)
        path = store.root / "mlp" / "reference.json"
        document = json.loads(path.read_text())
        document["outputs"][0][name] = value
        path.write_text(json.dumps(document))
        with pytest.raises(GoldenError, match="'0/logits' are not those described"):
            store.check("mlp", PROVENANCE, outputs)

    @pytest.mark.parametrize("case", ["", "..", ".hidden", "a/b", "a\\b"])
    def test_a_name_never_leaves_the_folder(self, store: GoldenStore, outputs: Outputs, case: str) -> None:
        with pytest.raises(GoldenError, match="name of a folder"):
            store.update(case, PROVENANCE, outputs)


class TestPolicy:
    def test_update_leaves_what_passes(self, store: GoldenStore, outputs: Outputs) -> None:
        store.update("mlp", PROVENANCE, outputs)
        before = {path: path.read_bytes() for path in (store.root / "mlp").iterdir()}
        rounded = changed(outputs, "logits", lambda x: x * np.float32(1 + 1e-6))
        now = dataclasses.replace(PROVENANCE, onnxruntime="1.21.0")
        assert store.update("mlp", now, rounded).ok
        assert {path: path.read_bytes() for path in (store.root / "mlp").iterdir()} == before

    def test_update_rewrites_what_fails(self, store: GoldenStore, outputs: Outputs) -> None:
        store.update("mlp", PROVENANCE, outputs)
        another = changed(outputs, "logits", np.negative)
        assert store.update("mlp", PROVENANCE, another).state is GoldenState.CHANGED
        assert store.check("mlp", PROVENANCE, another).state is GoldenState.SAME

    def test_prune_removes_orphans_and_nothing_else(self, store: GoldenStore, outputs: Outputs) -> None:
        for case in ("kept", "orphan"):
            store.update(case, PROVENANCE, outputs)
        (store.root / "notes").mkdir()
        (store.root / "README.md").write_text("golden")
        (store.root / "orphan" / "sm_90").mkdir()
        assert store.prune({"kept"}) == ["orphan"]
        assert sorted(os.listdir(store.root)) == ["README.md", "kept", "notes"]
        assert store.cases() == ["kept"]

    def test_nothing_to_prune(self, store: GoldenStore) -> None:
        assert store.prune([]) == []

    @pytest.mark.parametrize("value", ["true", "1"])
    def test_ci_refuses_to_write(
        self, store: GoldenStore, outputs: Outputs, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        store.update("mlp", PROVENANCE, outputs)
        monkeypatch.setenv("CI", value)
        with pytest.raises(GoldenError, match="not rewritten where CI is set"):
            store.update("new", PROVENANCE, outputs)
        with pytest.raises(GoldenError, match="not removed where CI is set"):
            store.prune([])
        assert store.cases() == ["mlp"]
        assert store.check("mlp", PROVENANCE, outputs).ok

    def test_an_empty_ci_variable_counts_as_unset(
        self, store: GoldenStore, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CI", "")
        store.update("mlp", PROVENANCE, outputs)
        assert store.cases() == ["mlp"]


def test_provenance_of_this_machine() -> None:
    feeds = [{"x": np.ones(3, np.float32)}, {"x": np.zeros(3, np.float32)}]
    here = Provenance.here("a" * 64, feeds)
    assert here == Provenance.here("a" * 64, feeds)
    assert here.inputs_sha256 != Provenance.here("a" * 64, feeds[::-1]).inputs_sha256
    for other in ([feeds[0]] * 2, [feeds[1]] * 2):
        assert here.inputs_sha256 != Provenance.here("a" * 64, other).inputs_sha256
    import onnxruntime

    assert here.onnxruntime == onnxruntime.__version__
