"""The direction of imports, read from the source: a module knows only what stands above it."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import types
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import rawws

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = Path(rawws.__file__).parent

LAYERS: Final = (
    ("errors", "limits", "_version", "_mypyc"),
    (
        "transport",
        "deflate",
        "masking",
        "http",
        "request_reader",
        "handshake",
        "http_client",
        "uri",
        "client_handshake",
        "reconnect",
        "frames",
        "encoder",
    ),
    ("protocol", "states", "backlog", "sending", "connection"),
    ("lag", "socket_transport", "loop", "reactor", "stream"),
    ("logs", "pace", "pieces", "opening", "websocket"),
    ("static_files", "site", "exchange", "metrics", "admin", "listeners", "server", "carrier", "dial", "client"),
    ("manager", "echo", "backplane", "rooms", "chat_protocol", "chat"),
    ("redis_url", "redis_scripts", "redis_link", "redis_backplane"),
    (
        "_build",
        "control",
        "supervisor",
        "worker",
        "workers",
        "line_editor",
        "wording",
        "terminal",
        "connect_command",
        "cli",
    ),
    ("__init__", "__main__"),
)
"""Each module of rawws, in rows: it imports from rows above its own, and from its own without a cycle."""

SANS_IO: Final = LAYERS[0] + LAYERS[1] + LAYERS[2]
DRIVERS: Final = ("lag", "socket_transport", "loop", "reactor", "stream")
IO_MODULES: Final = {"asyncio", "select", "selectors", "socket", "ssl", "threading", "time", "trio"}
ROW: Final = {module: row for row, modules in enumerate(LAYERS) for module in modules}
MODULES: Final = sorted(path.stem for path in SOURCE.glob("*.py"))
KNOWN: Final = sorted(set(MODULES) & set(ROW))


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def statements(body: list[ast.stmt], *, types_too: bool) -> Iterator[ast.stmt]:
    for statement in body:
        if is_for_types(statement) and not types_too:
            continue
        yield statement
        for inner in ast.iter_child_nodes(statement):
            if isinstance(inner, ast.stmt):
                yield from statements([inner], types_too=types_too)
            elif isinstance(inner, ast.ExceptHandler | ast.match_case):
                yield from statements(inner.body, types_too=types_too)


@cache
def imports(module: str, *, types_too: bool = False) -> frozenset[str]:
    """The full names of the modules that a module of rawws imports, anywhere in it."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text("utf-8"))
    found = set()
    for statement in statements(tree.body, types_too=types_too):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            name = statement.module or ""
            if statement.level:
                assert statement.level == 1
                name = f"rawws.{name}" if name else "rawws"
            if name in ("rawws", "wsproto", "h11"):
                # What is named may be a module itself.
                found |= {f"{name}.{alias.name}" for alias in statement.names}
            found.add(name)
    return frozenset(found)


def own_imports(module: str, *, types_too: bool = False) -> set[str]:
    """The modules of rawws that a module imports."""
    names = {name.removeprefix("rawws.") for name in imports(module, types_too=types_too) if name.startswith("rawws.")}
    return names & set(KNOWN)


def test_every_module_stands_in_the_table_of_layers() -> None:
    assert set(MODULES) - set(ROW) == set()


@pytest.mark.parametrize("module", KNOWN)
def test_a_module_imports_only_from_its_own_layer_and_those_above(module: str) -> None:
    assert {name for name in own_imports(module) if ROW[name] > ROW[module]} == set()


@pytest.mark.parametrize("module", sorted(set(KNOWN) - {"protocol"}))
def test_types_too_come_from_above_but_for_what_an_application_is_called_with(module: str) -> None:
    assert {name for name in own_imports(module, types_too=True) if ROW[name] > ROW[module]} == set()


def test_no_import_goes_in_a_circle() -> None:
    assert list(TopologicalSorter({module: own_imports(module) for module in MODULES}).static_order())


@pytest.mark.parametrize("module", SANS_IO)
def test_a_sans_io_module_knows_no_sockets_no_trio_and_no_clock(module: str) -> None:
    assert {name.partition(".")[0] for name in imports(module, types_too=True)} & IO_MODULES == set()


@pytest.mark.parametrize("module", DRIVERS)
def test_a_driver_does_not_know_what_the_bytes_mean(module: str) -> None:
    assert own_imports(module, types_too=True) <= {"transport", "_mypyc", *DRIVERS}


def test_only_frames_knows_wsproto() -> None:
    users = {module for module in MODULES if any(name.startswith("wsproto") for name in imports(module))}
    assert users == {"frames"}


def test_only_the_link_to_redis_knows_coredis() -> None:
    assert {module for module in MODULES if "coredis" in imports(module)} == {"redis_link"}


def test_importing_rawws_imports_no_client_of_redis() -> None:
    code = "import sys, rawws; sys.exit('coredis' in sys.modules or 'rawws.redis_backplane' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_http_knows_h11() -> None:
    assert {module for module in MODULES if "h11" in imports(module)} == {"request_reader", "http_client"}


def test_the_reading_of_imports_sees_them_everywhere_but_in_comments_and_strings() -> None:
    source = '''
import a, b.c
from d import e
from .f import g
if TYPE_CHECKING:
    from .h import i
if x:
    import j
else:
    import k
def f():
    """import l"""
    try:
        import m
    except ImportError:
        import n
'''
    tree = ast.parse(source)
    names = []
    for statement in statements(tree.body, types_too=False):
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            names.append(statement.module or "")
    assert names == ["a", "b.c", "d", "f", "j", "k", "m", "n"]


def test_the_public_names_are_the_union_of_what_modules_make_public() -> None:
    assert list(rawws.__all__) == sorted(set(rawws.__all__))
    public: dict[str, Any] = {}
    for module in MODULES:
        if not module.startswith("_"):
            loaded = importlib.import_module(f"rawws.{module}")
            public |= {name: getattr(loaded, name) for name in loaded.__all__}
    for name in rawws.__all__:
        if name != "__version__":
            assert getattr(rawws, name) is public[name]
    # Nothing else can be imported from the top level but its modules.
    others = {name for name in vars(rawws) if not name.startswith("_")} - set(rawws.__all__)
    assert all(isinstance(getattr(rawws, name), types.ModuleType) for name in others)


@pytest.mark.parametrize("module", ["chat", "echo"])
def test_the_chat_and_the_echo_could_have_been_written_by_anybody(module: str) -> None:
    tree = ast.parse((SOURCE / f"{module}.py").read_text("utf-8"))
    # Their own other halves: where the rooms are, and the messages.
    own = {name: importlib.import_module(f"rawws.{name}").__all__ for name in ("backplane", "chat_protocol")}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            allowed = own.get(node.module or "", rawws.__all__)
            assert {alias.name for alias in node.names} <= set(allowed), node.module
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            assert isinstance(node.value, ast.Name), node.attr
            assert node.value.id == "self", node.attr


def test_every_module_says_what_is_public_and_has_it() -> None:
    for module in MODULES:
        if not module.startswith("_"):
            loaded = importlib.import_module(f"rawws.{module}")
            assert all(hasattr(loaded, name) for name in loaded.__all__), module


def test_coverage_is_demanded_of_every_sans_io_module() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text("utf-8")
    (line,) = (line for line in makefile.splitlines() if line.startswith("SANS_IO = "))
    assert set(line.split()[2:]) == {module for module in SANS_IO if not module.startswith("_")}


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").is_file()
