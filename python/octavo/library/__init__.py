"""Operators of the ``octavo`` namespace of ``torch.ops``."""

from octavo.library import decomposed

__all__ = ["decomposed"]
