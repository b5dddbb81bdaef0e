"""The inputs that are kept: one text file a target in `corpus/`, an input a line in hexadecimal digits.

One file, and not one an input, so that a change to it can be read as a difference; sorted by length, so that a reader
begins with what is short and a replay with what is quick.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_FILE", "load", "save", "unpack"]

MAX_FILE: Final = 32_000
"""Bytes of one target's file, so that all of them stay below 300 KB."""
_FOLDER: Final = Path(__file__).with_name("corpus")


def load(name: str) -> list[bytes]:
    """Return the inputs that are kept for a target, the shortest first; none where there is no file yet."""
    path = _FOLDER / f"{name}.hex"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []


def save(name: str, inputs: Iterable[bytes]) -> int:
    """Keep the first of these inputs, as many as fit; return how many."""
    kept: set[bytes] = set()
    size = 0
    for data in inputs:
        if data not in kept and size + 2 * len(data) + 1 <= MAX_FILE:
            kept.add(data)
            size += 2 * len(data) + 1
    _FOLDER.mkdir(exist_ok=True)
    ordered = sorted(kept, key=lambda data: (len(data), data))
    (_FOLDER / f"{name}.hex").write_text("".join(f"{data.hex()}\n" for data in ordered))
    return len(kept)


def unpack(name: str, folder: Path) -> None:
    """Write each input to a file of its own, as libFuzzer wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in load(name):
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
