"""Tactics: what each build chose, which choice is wrong, how to live with it.

    from harness.tactics import collect, find_bad_tactics, usual_series

A build that was asked to tells what it chose for each layer (`TacticRecord`), by the mechanism that its release has.
`differences` compares two builds. `find_bad_tactics` takes builds that pass and builds that fail, and finds the
smallest set of choices that decides, by forcing choices in further builds. `export_pins` writes the choices of a build
that passes to files that make TensorRT choose them again; `PinnedCandidate` builds a case with them, and refuses an
engine that was built without. `build_repeatedly` and `compare_builds` say what changes when nothing should.

A unit of the search is a layer at which two builds chose differently, with the copies between formats that it brings
along. Choices are forced and never only suggested, and what TensorRT did not take is not a trial of what was asked:
see `find` and `trials`.
"""

from __future__ import annotations

from harness.tactics.building import VariedBuilds
from harness.tactics.find import Hunting, builds_for, find_bad_tactics
from harness.tactics.findings import Finding, Findings, Proof
from harness.tactics.pins import PinnedCandidate, Pins, export_pins, load_pins, pinned_cache
from harness.tactics.record import Difference, TacticRecord, differences, load_record, record_of
from harness.tactics.repeats import Repeats, build_repeatedly, compare_builds
from harness.tactics.samples import Sample, collect, has_both, usual_series
from harness.tactics.units import Unit
from harness.tactics.variations import Axis, Variation, axes, forced, noise, sources

__all__ = [
    "Axis",
    "Difference",
    "Finding",
    "Findings",
    "Hunting",
    "PinnedCandidate",
    "Pins",
    "Proof",
    "Repeats",
    "Sample",
    "TacticRecord",
    "Unit",
    "Variation",
    "VariedBuilds",
    "axes",
    "build_repeatedly",
    "builds_for",
    "collect",
    "compare_builds",
    "differences",
    "export_pins",
    "find_bad_tactics",
    "forced",
    "has_both",
    "load_pins",
    "load_record",
    "noise",
    "pinned_cache",
    "record_of",
    "sources",
    "usual_series",
]
