"""What the stages of a diagnosis share: the subject, its evaluations, the budget and the journal."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
