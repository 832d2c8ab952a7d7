"""Tactics: what each build chose, which choice is wrong, how to live with it.

    from harness.tactics import collect, find_bad_tactics, usual_series

A build can record what it chose for each layer (`TacticRecord`), by the mechanism that its release has.
`differences` compares two builds. `find_bad_tactics` takes builds that pass and builds that fail, and finds the
smallest set of choices that decides, by forcing choices in further builds. `export_pins` writes the choices of a build
that passes to files that make TensorRT choose them again; `PinnedCandidate` builds a case with them, and refuses an
engine that was built without. `build_repeatedly` and `compare_builds` say what changes when nothing should.

A unit of the search is a layer at which two builds chose differently, with the copies between formats that it brings
along. Choices are forced and never only suggested, and what TensorRT did not take says nothing of what was forced:
see `find` and `configurations`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
