"""What the source says to mypyc, which compiles the hot modules in the opt-in build (pyproject.toml).

A class that a compiled module defines can be subclassed by interpreted code only if it says so, with mypyc's own
decorator, which mypyc reads and never calls. Interpreted, the decorator here returns the class as it is:
`mypy_extensions`, where the real one lives, is needed by neither build when it runs. This module is never compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(**_):
        """Mark a class for mypyc, and do nothing to it."""
        return lambda cls: cls


__all__ = ["mypyc_attr"]
