"""The checks of polygons: what encloses no area, or is no polygon, is refused in one line."""

from math import inf, nan

import pytest

from storage.polygons import Point, area, check_polygon

SQUARE: tuple[Point, ...] = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))


@pytest.mark.parametrize(
    "points",
    [
        SQUARE,
        SQUARE[::-1],
        ((0, 0), (1, 0), (1, 1)),
        ((0, 0), (1, 0), (1, 1), (0, 1)),
        ((0.1, 0.1), (0.5, 0.1), (0.9, 0.1), (0.9, 0.9)),
        ((0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.9, 0.9), (0.1, 0.9)),
        tuple((0.5 + n % 2 / 4, 0.1 + n / 40) for n in range(0, 32, 2))
        + tuple((0.8, 0.1 + n / 40) for n in range(30, -1, -2)),
    ],
)
def test_polygon_of_any_shape_and_direction_is_taken(points: tuple[Point, ...]) -> None:
    assert check_polygon(points) == points


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (SQUARE[:2], "has 2 points: write 3 to 32"),
        (tuple((n / 40, n * n / 1600) for n in range(33)), "has 33 points"),
        (((0.1, 0.1), (1.01, 0.1), (0.5, 0.5)), r"\[1.01, 0.1\] is outside of the picture"),
        (((0.1, 0.1), (0.5, -0.1), (0.5, 0.5)), "is outside of the picture"),
        (((0.1, 0.1), (0.5, nan), (0.5, 0.5)), "is outside of the picture"),
        (((0.1, 0.1), (0.5, inf), (0.5, 0.5)), "is outside of the picture"),
        (((100, 200), (500, 200), (500, 600)), "shares of its width and height"),
        ((*SQUARE, SQUARE[0]), "names a point twice"),
        ((SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]), "cross or touch"),
        (((0.1, 0.1), (0.9, 0.1), (0.3, 0.1), (0.3, 0.9)), "cross or touch"),
        (((0.1, 0.1), (0.5, 0.5), (0.9, 0.9)), "cross or touch"),
        (((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.5, 0.1)), "cross or touch"),
        (((0.5, 0.5), (0.505, 0.5), (0.505, 0.505)), "encloses less than 0.01%"),
    ],
)
def test_what_encloses_no_area_is_refused(points: tuple[Point, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_polygon(points)


def test_area_is_a_share_of_the_picture() -> None:
    assert area(SQUARE) == pytest.approx(0.64)
    assert area(SQUARE[::-1]) == pytest.approx(0.64)
    assert area(((0, 0), (1, 0), (1, 1))) == pytest.approx(0.5)
