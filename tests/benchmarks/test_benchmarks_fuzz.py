"""A sample of the damaged files that `benchmarks.fuzz` judges: one clear answer for each."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.isolated import outcomes


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_get_one_clear_answer() -> None:
    found = outcomes(fuzz.judge_files, fuzz.wanted(60, 20, 20, seed=100_000), seconds=60)
    assert len(found) == 100
    wrong = {
        name: outcome
        for name, outcome in found.items()
        if not isinstance(outcome, list) or outcome[0] == "internal"
    }
    assert wrong == {}


@pytest.mark.parametrize("variant", fuzz.MODELS)
def test_the_models_pass_as_they_are(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "damaged", lambda data, random: data)
    assert fuzz._judge_model(tmp_path, variant, random.Random(0))[0] == "pass"


@pytest.mark.parametrize("variant", fuzz.TEXTS)
def test_the_texts_are_read_as_they_are(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "reworded", lambda text, random: text.encode())
    assert fuzz._judge_text(tmp_path, variant, random.Random(0))[0] == "read"


@pytest.mark.parametrize("kind", fuzz.KEPT)
def test_what_is_kept_is_read_as_it_is(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "damaged", lambda data, random: data)
    monkeypatch.setattr(fuzz, "reworded", lambda text, random: text.encode())
    monkeypatch.delenv("CI", raising=False)  # where it is set nothing is kept
    assert fuzz._judge_kept(tmp_path, kind, random.Random(0)) == ("read", "")


def _ends_badly(names):
    import os
    import time

    for name in names:
        yield name, None
        if name == "crash":
            os._exit(3)
        if name == "hang":
            time.sleep(60)
        yield name, "fine"


def test_a_call_that_crashes_or_hangs_is_reported_and_the_others_go_on() -> None:
    found = outcomes(_ends_badly, ["a", "crash", "b", "hang", "c"], seconds=2)
    assert found == {"a": "fine", "crash": "crash", "b": "fine", "hang": "hang", "c": "fine"}
