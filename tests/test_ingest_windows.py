from hypothesis import given
from hypothesis import strategies as st

from ingest.pictures.stills import Jpeg
from ingest.windows import GROUP_SIZE, Shot, ShotBuffer

JPEG = Jpeg(data=b"jpeg", width=4, height=3)
SIZE = 8


def fed(shots: ShotBuffer, numbers: range) -> list[list[float]]:
    made = [shots.add(Shot(at=float(n), jpeg=JPEG)) for n in numbers]
    return [instants(each) for each in made if each]


def instants(taken: object) -> list[float]:
    assert isinstance(taken, list | tuple)
    return [shot.at for shot in taken]


@given(st.lists(st.integers(min_value=0, max_value=19), max_size=12))
def test_each_run_between_breaks_becomes_windows_and_whole_groups(runs: list[int]) -> None:
    shots, at = ShotBuffer(SIZE), 0
    for length in runs:
        made = fed(shots, range(at, at + length))
        made += [rest] if (rest := instants(shots.take_groups())) else []
        shots.clear()
        whole = list(range(at, at + length // GROUP_SIZE * GROUP_SIZE))
        assert [second for window in made for second in window] == whole
        assert all(len(window) == SIZE for window in made[:-1])
        assert shots.first is None
        at += length


def test_what_is_over_stays_in_hand_for_the_next_window() -> None:
    shots = ShotBuffer(SIZE)
    fed(shots, range(6))
    assert instants(shots.take_groups()) == [0, 1, 2, 3]
    assert shots.first is not None
    assert shots.first.at == 4
    assert fed(shots, range(6, 12)) == [[4, 5, 6, 7, 8, 9, 10, 11]]


def test_still_is_as_far_from_its_shot_as_the_clocks_are_apart() -> None:
    still = Shot(at=12.3456, jpeg=JPEG).still(1_700_000_000.0)
    assert still.at.timestamp() == 1_700_000_012.346
    assert (still.jpeg, still.width, still.height) == (b"jpeg", 4, 3)
