"""Tactics: what each build chose, which choice is wrong, how to live with it.

    from harness.tactics import collect, find_bad_tactics, usual_series

A build that was asked to tells what it chose for each layer (`TacticRecord`), by the mechanism that its release has.
`differences` compares two builds. `find_bad_tactics` takes builds that pass and builds that fail, and finds the
smallest set of choices that decides, by forcing choices in further builds. `export_pins` writes the choices of a build
that passes to files that make TensorRT choose them again; `PinnedCandidate` builds a case with them, and refuses an
engine that was built without. `measure_repeats` builds a plan several times, and says what changed.
"""

from __future__ import annotations
