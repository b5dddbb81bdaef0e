"""Which build of rawws this is: pure Python, or with its hot modules compiled by mypyc from the same source."""

from __future__ import annotations

from types import FunctionType
from typing import Final

from .masking import apply_mask

__all__ = ["COMPILED"]

COMPILED: Final = not isinstance(apply_mask, FunctionType)
"""Whether the hot modules are compiled; every other module is interpreted on both builds."""
