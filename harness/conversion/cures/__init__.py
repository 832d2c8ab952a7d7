"""Cures: rewrites of a model, each proved against the original before it is offered.

`prove` runs both models and compares, `fix` applies what is proved and what the compilers take. `rules/` holds what
they write, one module a family of operators, and the table of all with what they need and where they are from. The
rules are onnxscript's: a pattern, and what takes its place.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
