"""The fuzzers' targets, replayed over the inputs that are kept: the Autobahn cases and what coverage has led to.

Each target compares the lane with its absence by itself. Its own rules are tested too: a target that holds for
everything would hold for a broken decoder as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rawws import client_handshake, connection, deflate, frames, request_reader
from rawws._build import COMPILED
from rawws.deflate import DeflateParameters
from tests.fuzz import connection_target, corpus, http_targets
from tests.fuzz.runner import Slice, read_slice
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path


def replay(name: str) -> int:
    """Check every kept input of a target; return how many there are."""
    inputs = corpus.load(name)
    for data in inputs:
        TARGETS[name].check(data)
    return len(inputs)


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_holds(name: str) -> None:
    assert replay(name) >= 10


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_without_options_or_a_stream_hold(name: str) -> None:
    for data in (b"", b"\x00", b"\x00\x00", b"\xff\xff", b"\x00\x00\x00", b"\xff\xff\xff"):
        TARGETS[name].check(data)


def any_answer(*args: Any) -> DeflateParameters:
    return DeflateParameters(
        server_no_context_takeover=False,
        client_no_context_takeover=False,
        server_max_window_bits=15,
        client_max_window_bits=15,
    )


BROKEN: list[tuple[str, object, str, object]] = [
    ("heads", request_reader, "_split_target", lambda method, target: (target[1:], "", None)),
    ("offers", deflate, "_answer", any_answer),
    ("answers", http_targets, "confirm", any_answer),
    ("responses", client_handshake, "_CREDENTIALS", ()),
    ("server_frames_deflate", frames._Rules, "frame_inbound_complete", lambda self, proto, fin: None),
    ("client_frames_deflate", deflate.Deflater, "compress", lambda self, data: data),
    ("connection", connection.Connection, "eof", lambda self, error: None),
]
if not COMPILED:  # what a compiled module calls of its own cannot be replaced
    BROKEN += [
        ("server_frames", frames, "rotate", lambda key, size: key),
        ("client_frames", frames.Decoder, "_take_message", lambda self: ""),
    ]


@pytest.mark.parametrize(("target", "place", "name", "broken"), BROKEN)
def test_a_target_finds_what_is_broken(
    monkeypatch: pytest.MonkeyPatch, target: str, place: object, name: str, broken: object
) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises((AssertionError, ValueError)):
        replay(target)


def test_the_corpus_is_small() -> None:
    assert sum(2 * len(data) + 1 for name in TARGETS for data in corpus.load(name)) < 300_000


def test_a_corpus_comes_back_sorted_without_repetition_and_as_far_as_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_FOLDER", tmp_path / "corpus")
    monkeypatch.setattr(corpus, "MAX_FILE", 9)
    assert corpus.load("x") == []
    # With line ends 5, 3 and 1 characters; what would be one too many does not keep shorter ones out.
    assert corpus.save("x", [b"bb", b"a", b"a", b"cc", b""]) == 3
    assert corpus.load("x") == [b"", b"a", b"bb"]
    corpus.unpack("x", tmp_path / "seeds")
    assert sorted(path.read_bytes() for path in (tmp_path / "seeds").iterdir()) == [b"", b"a", b"bb"]


LOG = """\
INFO: seed corpus: files: 14 min: 2b max: 222b total: 1834b rss: 74Mb
#15\tINITED cov: 301 ft: 402 corp: 12/1Kb exec/s: 0 rss: 74Mb
#64\tNEW    cov: 311 ft: 420 corp: 13/1Kb lim: 222 exec/s: 0 rss: 75Mb L: 31/222 MS: 1 EraseBytes-
#256\tpulse  cov: 311 ft: 425 corp: 13/1Kb lim: 222 exec/s: 128 rss: 80Mb
#512\tREDUCE cov: 335 ft: 454 corp: 14/1Kb lim: 222 exec/s: 170 rss: 77Mb L: 92/92 MS: 3 CMP- DE: "\\002"-
"""


def test_only_a_difference_that_zlib_shows_too_is_one_of_the_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    zlib = deflate.load_backend("zlib")
    monkeypatch.setattr(connection_target._Play, "run", lambda self: deflate._deflating_backend() is zlib or object())
    TARGETS["connection"].check(b"\x00\x00\x00")
    monkeypatch.setattr(connection_target._Play, "run", lambda self: object())
    with pytest.raises(AssertionError):
        TARGETS["connection"].check(b"\x00\x00\x00")


def test_the_log_of_a_slice_says_how_much_was_done_and_grown() -> None:
    # A quarter of 1000 is 250; from there on it was 80 and then 77 MiB.
    done = "Done 1000 runs in 5 second(s)\nstat::number_of_executed_units: 1000\nstat::peak_rss_mb:              81\n"
    assert read_slice(LOG + done) == Slice(1000, 5, 81, -3, 454, 14)


def test_a_log_that_ends_in_the_middle_counts_as_far_as_it_goes() -> None:
    assert read_slice(LOG) == Slice(512, 0, 80, -3, 454, 14)
    assert read_slice("") == Slice(0, 0, 0, 0, 0, 0)
