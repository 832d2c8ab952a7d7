"""A prompt for finding the nodes that need FP32 by hand.

    with open_session("cases/rmsnorm-overflow.case.yaml", precision="fp16") as session:
        session.keep(["b7_*"])
        print(session.evaluate().passed)

`commands` turns a line into a command and `names` turns patterns into nodes; `session` does what a command says, with
`measurements`, `files` and the `ByHand` of a diagnosis, and returns one of the `answers`; `rendering` and `tables` show
it; `completion` knows what may follow; `shell` joins them for a terminal or a pipe.

A configuration is the set of nodes that are kept in FP32. Every configuration that is tried goes into the journal of
`harness diagnose`, under the same problem: `diagnose --resume` does not evaluate again what was tried by hand, and what
a diagnosis evaluated is known here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
