from hypothesis import given
from hypothesis import strategies as st

from ingest.decoding.nal_units import nal_prefix, nal_starts

nal_units = st.lists(st.lists(st.integers(1, 255), max_size=90).map(bytes), max_size=6)
lengths = st.sampled_from([0, 1, 2, 4])


def joined(nals: list[bytes], length: int) -> bytes:
    """Return an access unit of them; `length` as in `ingest.decoding.nal_units`."""
    if not length:
        return b"".join(b"\0\0\1" + nal for nal in nals)
    return b"".join(len(nal).to_bytes(length, "big") + nal for nal in nals)


@given(nal_units, lengths, st.integers(1, 100))
def test_each_nal_unit_is_found_and_cut(nals: list[bytes], length: int, most: int) -> None:
    unit = joined(nals, length)
    found = [nal_prefix(unit, first, length, most) for first in nal_starts(unit, length)]
    assert [nal for nal in found if nal] == [nal[:most] for nal in nals if nal]


@given(st.binary(max_size=80), lengths)
def test_bytes_that_are_no_nal_units_are_passed_over(data: bytes, length: int) -> None:
    for first in nal_starts(data, length):
        assert len(nal_prefix(data, first, length, 64)) <= 64
