"""Runs a scenario under asyncio, as `trio.run` does under Trio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["run_asyncio"]


def run_asyncio(function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
    asyncio.run(function(*arguments))
