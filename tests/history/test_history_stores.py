"""A history in a store that fsspec knows: one object a run, written once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.cli import main
from harness.errors import HistoryError, MissingDependencyError
from harness.history import DriftOptions, HistoryWarning, nightly_report, place_of, runs_at

pytest.importorskip("fsspec")
upath = pytest.importorskip("upath", reason="pip install -c constraints.txt -e '.[store]'")

from object_store import ObjectStore  # noqa: E402 - needs the extra

pytestmark = pytest.mark.filterwarnings("ignore:UPath 'objects' filesystem")
RELEASES = ["emulator:fp16", "emulator:fp16,seed=1,plant=square@bf16"]


@pytest.fixture(params=["memory", "file", "objects"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = f"{request.node.name}-{tmp_path.name}".replace("[", "-").replace("]", "")
    return (
        f"file://{tmp_path}/shared/history"
        if request.param == "file"
        else f"{request.param}://{name}/history"
    )


def objects(url: str) -> list[str]:
    return sorted(path.name for path in place_of(url).glob("*"))


def run(cases: Path, url: Path | str, **options: Any) -> harness.DriftReport:
    return harness.drift(
        cases,
        environments=RELEASES,
        history=url,
        options=DriftOptions(repeats=2),
        precisions="fp16",
        **options,
    )


def test_a_run_is_one_object_and_reads_as_one_in_a_folder(tiny_cases, store, tmp_path: Path) -> None:
    cases = tiny_cases("clean", "failing")
    there, here = run(cases, store), run(cases, tmp_path / "folder")
    assert objects(store) == [f"{there.run}.parquet"]
    assert [(run.case, run.status) for run in there.runs] == [(run.case, run.status) for run in here.runs]
    frames = [
        harness.load_history(place).drop(columns=["run", "time"]).astype(str)
        for place in (store, tmp_path / "folder")
    ]
    assert frames[0].equals(frames[1])
    assert not list((tmp_path / "cache").rglob("*.parquet")), "its parts are gone"


def test_nights_in_a_store_are_compared_as_those_in_a_folder(tiny_cases, store) -> None:
    cases = tiny_cases("clean")
    nights = [
        harness.drift(
            cases,
            environments="emulator:fp16",
            history=store,
            options=DriftOptions(repeats=1),
            against="history",
        )
        for _ in range(3)
    ]
    assert [info.run for info in runs_at(place_of(store))] == [night.run for night in nights]
    assert nightly_report(place_of(store)).exit_code == 0


def test_an_interrupted_run_is_continued_and_the_store_sees_it_when_it_is_whole(tiny_cases, store) -> None:
    cases = tiny_cases("clean", "failing")

    def stop(event: Any) -> None:
        if event.case == "failing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cases, store, progress=stop)
    assert objects(store) == []
    done: list[str] = []
    report = run(cases, store, resume=True, progress=lambda event: done.append(event.case))
    assert set(done) == {"failing"}, "what was kept is not built again"
    assert objects(store) == [f"{report.run}.parquet"]


def test_a_store_that_takes_nothing_loses_nothing(tiny_cases, store, monkeypatch) -> None:
    cases = tiny_cases("clean")
    fs = type(place_of(store).fs)
    with monkeypatch.context() as patch:
        patch.setattr(fs, "open", refuse)
        patch.setattr("harness.history.store.places.atomic_path", refuse)
        with pytest.raises(HistoryError, match=r"the run cannot be written: no space.*--resume"):
            run(cases, store)
    assert objects(store) == []
    done: list[str] = []
    report = run(cases, store, resume=True, progress=lambda event: done.append(event.case))
    assert done == []
    assert objects(store) == [f"{report.run}.parquet"]


def refuse(*arguments: Any, **options: Any) -> None:
    raise OSError("no space")


def test_a_foreign_object_is_skipped_with_a_warning(tiny_cases, store) -> None:
    report = run(tiny_cases("clean"), store)
    (place_of(store) / "stray.parquet").write_bytes(b"nothing")
    with pytest.warns(HistoryWarning, match="stray"):
        assert [info.run for info in runs_at(place_of(store))] == [report.run]


def test_what_others_write_is_seen_though_the_plug_in_keeps_lists(tiny_cases, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = place_of(f"objects://{tmp_path.name}/history")
    report = run(tiny_cases("clean"), str(place))
    assert [info.run for info in runs_at(place)] == [report.run]
    key = place.fs._strip_protocol(f"{place}/{report.run}.parquet")
    stored = dict(place.fs.store)
    place.fs.store[key.replace(report.run, "20200131T020304512Z-1f9a3c")] = stored[key]
    assert len(runs_at(place)) == 2


@pytest.mark.parametrize("command", ["history list", "drift"])
def test_a_store_that_does_not_answer_is_one_message_before_anything_runs(
    command: str, tiny_cases, monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ObjectStore, "down", True)
    words = (
        ["drift", str(tiny_cases("clean")), "--env", RELEASES[0]] if command == "drift" else command.split()
    )
    assert main([*words, "--history", "objects://down/history"]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert (
        "objects://down/history: the store cannot be reached: Could not connect to the endpoint URL" in said
    )
    assert "internal error" not in said


def test_a_store_that_is_lost_meanwhile_loses_nothing(tiny_cases, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cases, url = tiny_cases("clean"), f"objects://{tmp_path.name}/lost"

    with pytest.raises(HistoryError, match="Could not connect"):
        run(cases, url, progress=lambda event: monkeypatch.setattr(ObjectStore, "down", True))
    monkeypatch.setattr(ObjectStore, "down", False)
    done: list[str] = []
    report = run(cases, url, resume=True, progress=lambda event: done.append(event.case))
    assert (done, objects(url)) == ([], [f"{report.run}.parquet"])


def test_the_commands_take_a_url(tiny_cases, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cases, url = tiny_cases("clean"), f"file://{tmp_path}/shared"
    options = [word for name in RELEASES for word in ("--env", name)]
    document = tmp_path / "drift.json"
    drift = [
        "drift",
        str(cases),
        *options,
        "-p",
        "fp16",
        "-k",
        "1",
        "--history",
        url,
        "--json",
        str(document),
    ]
    assert main(drift) in (0, 1)
    run_id = json.loads(document.read_text())["run"]
    capsys.readouterr()
    assert main(["history", "list", "--history", url]) == 0
    assert run_id in capsys.readouterr().out
    assert main(["history", "show", "--history", url]) in (0, 1)
    assert main(["history", "show", f"{url}/{run_id}.parquet"]) in (0, 1)
    capsys.readouterr()
    assert main(["history", "list", "--history", "nostore://x/y"]) == 2
    assert "nostore://x/y: is not a store" in capsys.readouterr().err


def test_without_the_extra_the_message_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(MissingDependencyError, match=r"harness\[store\]"):
        place_of("memory://x")


def test_two_processes_write_one_store(tiny_cases, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cases, url = tiny_cases("clean"), f"file://{tmp_path}/shared"
    options = [word for name in RELEASES for word in ("--env", name)]
    command = [sys.executable, "-m", "harness", "drift", str(cases), *options, "-p", "fp16", "-k", "1"]
    running = [
        subprocess.Popen([*command, "--history", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert {process.wait() for process in running} <= {0, 1}
    assert len(objects(url)) == 2
    assert len(runs_at(place_of(url))) == 2
