"""Will it convert, and what becomes of it: findings about a model, with their cures.

A finding comes from a rule, from a parser or from a builder. It is data; a report makes the words.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
