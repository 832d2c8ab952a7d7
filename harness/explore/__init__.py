"""A prompt for a person who looks for the nodes that need FP32 by hand.

    with open_session("cases/rmsnorm-overflow.case.yaml", precision="fp16") as session:
        session.keep(["b7_*"])
        print(session.attempt().outcome)

Each part does one thing: `commands` turns a line into a command, `names` turns patterns into nodes, `island` is
what is kept in FP32 and its way back, `session` does what a command says and returns an answer, `rendering` shows
answers, `completion` knows what may follow, `shell` joins them for a terminal or a pipe.

A configuration is the set of nodes that are kept in FP32. Every configuration that is tried goes into the journal of
`harness diagnose`, under the same problem: what was tried by hand is not evaluated again by `diagnose --resume`, and
what a diagnosis evaluated is known here.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
