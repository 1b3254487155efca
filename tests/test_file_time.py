from ingest.file_time import FileTime, Instant

EPOCH = 1_700_000_000.0


def place(timeline: FileTime, *stamps: float | None) -> list[Instant]:
    return [timeline.place(pts) for pts in stamps]


def seconds(instants: list[Instant]) -> list[float]:
    return [round(instant.at - EPOCH, 3) for instant in instants]


def broken(instants: list[Instant]) -> list[bool]:
    return [instant.broke for instant in instants]


def test_the_long_steps_of_a_slow_camera_are_no_breaks() -> None:
    instants = place(FileTime(EPOCH, 10.0), *[n * 10.0 for n in range(5)])
    assert broken(instants) == [False, True, False, False, False]


def test_a_file_is_placed_at_its_start_plus_its_timestamps() -> None:
    instants = place(FileTime(EPOCH, 0.1), 1.4, 1.5, 1.6)
    assert seconds(instants) == [0.0, 0.1, 0.2]


def test_a_file_without_timestamps_goes_by_its_frame_rate() -> None:
    assert seconds(place(FileTime(EPOCH, 0.1), *[None] * 3)) == [0.0, 0.1, 0.2]


def test_after_a_jump_back_a_file_goes_on_where_it_was() -> None:
    instants = place(FileTime(EPOCH, 0.1), 0.0, 5.9, 6.0, 0.0, 0.1)
    assert seconds(instants) == [0.0, 5.9, 6.0, 6.1, 6.2]
    assert broken(instants)[2:] == [False, True, False]


def test_a_small_step_back_in_a_file_does_not_count_when_it_jumps() -> None:
    instants = place(FileTime(EPOCH, 0.1), 4.0, 5.0, 4.5, 0.0)
    assert seconds(instants) == [0.0, 1.0, 0.5, 1.1]


def test_a_jump_ahead_in_a_file_is_kept_as_it_says() -> None:
    instants = place(FileTime(EPOCH, 0.1), 0.0, 0.1, 3600.0)
    assert seconds(instants) == [0.0, 0.1, 3600.0]
    assert broken(instants) == [False, False, True]
