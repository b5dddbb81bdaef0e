"""Every implementation of masking against a one-line oracle (RFC 6455 §5.3)."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rawws import masking
from rawws.masking import (
    apply_mask,
    mask_short,
    mask_with_integers,
    mask_with_numpy,
    mask_with_strides,
    rotate,
    unmask_piece,
    unmask_short,
)

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = b"\x37\xfa\x21\x3d"  # the masking key of RFC 6455 §5.7
MASKED_HELLO = b"\x7f\x9f\x4d\x51\x58"  # "Hello" under it

# Both sides of every threshold (126, 512 and 4096 bytes) and of every remainder by four.
EDGES = [124, 125, 126, 127, 511, 512, 513, 514, 515, 4095, 4096, 4097, 4098, 4099, 65_536, 65_537, 1_048_579]


def oracle(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[index % 4] for index, byte in enumerate(data))


def masked_without_numpy(data: bytes, key: bytes) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numpy", None)  # makes `import numpy` raise ImportError
        patch.setattr(masking, "_mask_large", masking._choose_and_mask)
        return apply_mask(data, key)


def masked_with_numpy(data: bytes, key: bytes) -> bytes:
    pytest.importorskip("numpy", reason="pip install 'rawws[speed]'")
    return mask_with_numpy(data, key)


def masked_from_a_view(data: bytes, key: bytes) -> bytes:
    return apply_mask(memoryview(b"." + data)[1:], key)  # also unaligned


def masked_behind_its_key(data: bytes, key: bytes) -> bytes:
    return unmask_short(key + data) if len(data) < 126 else apply_mask(data, key)


def masked_and_put_behind_its_key(data: bytes, key: bytes) -> bytes:
    if len(data) >= 126:
        return apply_mask(data, key)
    frame = mask_short(data, int.from_bytes(key, "big"))
    assert frame.startswith(key)
    return frame[4:]


def masked_as_a_piece(data: bytes, key: bytes) -> bytes:
    pytest.importorskip("numpy", reason="pip install 'rawws[speed]'")
    apply_mask(bytes(4096), key)  # NumPy masks from here on
    pieces = []
    for lead in range(5):  # aligned and not, with bytes behind and without
        for behind in range(2):
            read = b"." * lead + data + b"." * behind
            piece = unmask_piece(read, lead, lead + len(data), key)
            assert isinstance(piece, memoryview if len(data) >= 4096 else bytes)
            pieces.append(bytes(piece))
    assert len(set(pieces)) == 1
    return pieces[0]


def masked_from_a_bytearray(data: bytes, key: bytes) -> bytes:
    return apply_mask(bytearray(data), key)


@pytest.mark.parametrize(
    "mask",
    [
        apply_mask,
        mask_with_integers,
        mask_with_strides,
        masked_with_numpy,
        masked_without_numpy,
        masked_from_a_view,
        masked_from_a_bytearray,
        masked_as_a_piece,
        masked_behind_its_key,
        masked_and_put_behind_its_key,
    ],
)
class TestEveryImplementation:
    def test_hello_of_the_rfc_is_masked_and_unmasked(self, mask: Callable[[bytes, bytes], bytes]) -> None:
        assert mask(b"Hello", KEY) == MASKED_HELLO
        assert mask(MASKED_HELLO, KEY) == b"Hello"

    def test_the_result_is_bytes_also_when_empty(self, mask: Callable[[bytes, bytes], bytes]) -> None:
        assert mask(b"", KEY) == b""
        assert type(mask(b"", KEY)) is bytes
        assert type(mask(bytes(5000), KEY)) is bytes

    @pytest.mark.parametrize("size", [*range(10), *EDGES])
    def test_a_payload_of_any_size_equals_the_oracle(self, mask: Callable[[bytes, bytes], bytes], size: int) -> None:
        data = (bytes(range(251)) * (size // 251 + 1))[:size]  # a prime, so that no stride repeats itself
        assert mask(data, KEY) == oracle(data, KEY)

    @settings(deadline=None)
    @given(data=st.binary(max_size=9) | st.binary(max_size=6000), key=st.binary(min_size=4, max_size=4))
    @example(data=b"\x00" * 9, key=b"\x00\x00\x00\x01")  # leading zeros of the big integers must survive
    @example(data=b"\xff" * 600, key=b"\xff\xff\xff\xff")
    def test_any_data_and_key_equal_the_oracle(
        self, mask: Callable[[bytes, bytes], bytes], data: bytes, key: bytes
    ) -> None:
        assert mask(data, key) == oracle(data, key)

    @settings(deadline=None)
    @given(
        data=st.binary(max_size=3000),
        key=st.binary(min_size=4, max_size=4),
        cuts=st.lists(st.integers(0, 3000), max_size=4),
    )
    def test_pieces_with_rotated_keys_equal_the_whole(
        self, mask: Callable[[bytes, bytes], bytes], data: bytes, key: bytes, cuts: list[int]
    ) -> None:
        ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
        pieces, start = [], 0
        for end in ends:
            pieces.append(mask(data[start:end], rotate(key, start)))
            start = end
        assert b"".join(pieces) == oracle(data, key)


@pytest.mark.parametrize(
    ("consumed", "expected"),
    [(0, b"abcd"), (1, b"bcda"), (2, b"cdab"), (3, b"dabc"), (4, b"abcd"), (1_000_003, b"dabc")],
)
def test_the_key_is_rotated_by_the_bytes_consumed(consumed: int, expected: bytes) -> None:
    assert rotate(b"abcd", consumed) == expected


def test_numpy_is_imported_by_the_first_large_payload_and_not_before() -> None:
    pytest.importorskip("numpy", reason="pip install 'rawws[speed]'")
    program = (
        "import sys\n"
        "from rawws.masking import apply_mask\n"
        "apply_mask(bytes(4095), b'abcd')\n"
        "assert 'numpy' not in sys.modules\n"
        "apply_mask(bytes(4096), b'abcd')\n"
        "assert 'numpy' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_missing_numpy_is_looked_for_once() -> None:
    program = """if True:
        import sys
        sys.modules["numpy"] = None
        from rawws import masking
        choose = masking._mask_large
        assert masking.apply_mask(bytes(1000), b"abcd") == b"abcd" * 250
        assert masking._mask_large is choose  # too small to ask
        assert masking.apply_mask(bytes(4096), b"abcd") == b"abcd" * 1024
        assert masking._mask_large is masking.mask_with_strides
    """
    # A process of its own: a compiled module remembers what it has imported.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_found_numpy_masks_all_large_payloads_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy", reason="pip install 'rawws[speed]'")
    monkeypatch.setattr(masking, "_mask_large", masking._choose_and_mask)
    apply_mask(bytes(4096), b"abcd")
    assert masking._mask_large is mask_with_numpy
