"""From a wrong engine to its culprits, in the fewest builds.

    from harness.diagnosis import diagnose

    diagnosis = diagnose("cases/rmsnorm-overflow.case.yaml", precision="fp16")
    print(diagnosis.summary, diagnosis.culprits)

`pipeline` is the ordered table of stages, each with what it requires and ensures; `stages/` is what each of them does.
`context/` is what they share, and `Seen` what they have shown; `explain/` says why, and `handover/` writes what there
is to act on. An engine is diagnosed with the emulator's answer as the prior; the unobserved engine
has the last word. What was not shown is `unresolved`: it never guesses.

Units of a search are the nodes of the ONNX graph that the precision lowers; a culprit is a node whose return to
FP32 is needed for the unobserved candidate to pass. A tensor is rounded by the node that writes it and by the nodes
that read it, so an overflow needs both sides of each tensor that does not fit: the culprits are that island, and
the origin is its first node.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
