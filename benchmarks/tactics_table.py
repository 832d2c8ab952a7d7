"""The result of benchmarks.tactics, a line a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PARTS = ("repeats", "replay", "forbid", "planted", "natural")


def table(numbers: Mapping[str, Any]) -> Iterator[str]:
    """What came of it, a line a part."""
    for entry in numbers["runs"]:
        warm = f", first build {entry['warm_up_seconds']:.0f} s" if "warm_up_seconds" in entry else ""
        yield f"{entry['environment']}, {entry['case']}{warm}{_flaw(entry)}"
        for name in PARTS:
            part = entry.get(name)
            if part is not None:
                yield f"  {name:8} {_line(name, part)}{_flaw(part)}"


def _flaw(part: Mapping[str, Any]) -> str:
    error = part.get("error", "").strip().splitlines()
    words = [*(["stopped"] if "stopped" in part else []), *error[-1:]]
    return f"  [{'; '.join(words)}]" if words else ""


def _line(name: str, part: Mapping[str, Any]) -> str:
    if name == "repeats" and "choices_exposed" in part:
        several = part["repeats"]["summary"] if part["repeats"] else "one build"
        seconds = ", ".join(f"{build['build_seconds']:.1f}" for build in part["builds"])
        return (
            f"{part['choices_exposed']} choices exposed of {part['engine_layers']} engine layers, "
            f"{part['implementations_offered']} implementations offered, {part['confirmed_by_inspector']} confirmed, "
            f"{len(part['contradicted_by_inspector'])} contradicted; {several}; builds of {seconds} s"
        )
    if name == "replay" and "replays" in part:
        return "; ".join(
            f"{each['taken']} of {each['of']} {each['missed_kinds'] or ''}" for each in part["replays"]
        )
    if name == "forbid" and "forbidden" in part:
        return f"{sum(each['avoided'] for each in part['forbidden'])} of {len(part['forbidden'])} avoided"
    if name == "planted" and "planted" in part:
        return "; ".join(map(_plant, part["planted"]))
    if name == "natural" and "swapped" in part:
        rows = part["swapped"]
        moved = [max(output["nrmse"] for output in row["outputs"].values()) for row in rows]
        honoured = sum(row["honoured"] for row in rows)
        distances = ", ".join(f"{each:.1e}" for each in moved)
        return f"{honoured} of {len(rows)} honoured, outputs moved by nrmse {distances}"
    return str(part.get("skipped", ""))


def _plant(row: Mapping[str, Any]) -> str:
    if "finding" not in row:
        return f"{row['layer']}: stopped"
    right = ", the planted one" if row["right"] else ""
    return (
        f"{row['finding']}{right}: {row['builds']} builds of {row['promised_builds']} promised, "
        f"{row['differing']} layers differ, {row['suspected']} suspected, {row['further_samples']} further samples"
        f"{' ' + row['missing'] if row['missing'] else ''}"
    )
