"""The bank of photographs that rendered scenes are dressed in."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

from analyzer.nano.workshop.renderer import photographs
from analyzer.nano.workshop.renderer.photographs import Photographs, kinds, load


def noise(height: int = 120, width: int = 160) -> np.ndarray:
    return default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def encoded(picture: Image.Image | np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, form)
    return file.getvalue()


def spoilt(data: bytes, mark: bytes, offset: int) -> bytes:
    """Return the data with 4 bytes overwritten near one of the places where the mark stands."""
    places = [i for i in range(len(data)) if data.startswith(mark, i)]
    at = places[len(places) // 2 - 1 if len(places) > 1 else 0] + offset
    return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


def holed(mode: str) -> Image.Image:
    picture = Image.fromarray(noise())
    if mode == "P":
        palette = picture.convert("P")
        palette.info["transparency"] = bytes([0] + [255] * 255)
        return palette
    picture.putalpha(Image.new("L", picture.size, 255))
    picture.putpixel((3, 3), (0, 0, 0, 0))
    return picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "pictures"
    (pictures / "backgrounds").mkdir(parents=True)
    Image.fromarray(noise()).save(pictures / "Asphalt01.jpg")
    Image.fromarray(noise()).save(pictures / "red_brick.png")
    Image.fromarray(noise()).save(pictures / "carpet.png")
    Image.fromarray(noise(500, 700)).save(pictures / "backgrounds" / "street.jpg")
    return pictures


def test_names_say_what_a_picture_can_serve_as(folder: Path) -> None:
    bank = Photographs.of([folder])
    assert bank is not None
    assert {kind: len(found) for kind, found in bank.pictures.items()} == {
        "ground": 1, "wall": 1, "cloth": 2, "view": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/t.pk3/textures/tex_mattn/street012.png", ("ground",)),
        ("/t.pk3/textures/tex_mattn/street012_nm.png", ()),
        ("/t.pk3/textures/tex_ufo/wall.png", ()),
        ("/usr/share/backgrounds/mate/nature/Dune.jpg", ("view",)),
        ("/usr/share/backgrounds/mate/desktop/Cold.png", ()),
        ("/usr/share/doc/opencv-doc/examples/data/vtest.avi", ()),
        ("/usr/share/doc/opencv-doc/examples/data/vtest.jpg", ()),
        ("/usr/share/doc/opencv-doc/examples/data/WindowsLogo.jpg", ()),
        ("/usr/share/doc/opencv-doc/examples/data/leuvenA.jpg", ("view",)),
        ("/x/bridge.jpg", ()),
        ("/x/indoor.jpg", ()),
        ("/x/grass.txt", ()),
    ],
)
def test_paths_of_the_packages_are_sorted(path: str, expected: tuple[str, ...]) -> None:
    assert kinds(path) == expected


@pytest.mark.parametrize("kind", ["ground", "wall", "cloth", "view"])
def test_crop_has_the_size_asked_for_and_hangs_on_the_generator_alone(
    folder: Path, kind: photographs.Surface
) -> None:
    bank = Photographs.of([folder])
    assert bank is not None
    once, again, other = (bank.crop(default_rng(seed), kind, 24, 50) for seed in (1, 1, 2))
    assert once.shape == (24, 50, 3)
    assert once.dtype == np.uint8
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_views_keep_their_top_above_and_grounds_are_turned() -> None:
    slope = np.broadcast_to(np.linspace(250, 0, 200).astype(np.uint8)[:, None, None], (200, 200, 3))
    bank = Photographs(pictures={"ground": (slope,), "wall": (), "cloth": (), "view": (slope,)})
    r = default_rng(0)
    views = [bank.crop(r, "view", 40, 60) for _ in range(20)]
    assert all(view[0].mean() > view[-1].mean() for view in views)
    grounds = [bank.crop(r, "ground", 40, 60) for _ in range(20)]
    assert {np.sign(round(float(g[0].mean() - g[-1].mean()))) for g in grounds} == {-1, 0, 1}


def test_kind_without_a_photograph_borrows_from_all() -> None:
    bank = Photographs(pictures={"ground": (noise(),), "wall": (), "cloth": (), "view": ()})
    assert bank.crop(default_rng(0), "view", 10, 20).shape == (10, 20, 3)


def test_archives_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "0textures.pk3", "w") as archive:
        archive.writestr("textures/floor.png", encoded(noise()))
        archive.writestr("textures/readme.txt", "floor")
    bank = Photographs.of([tmp_path / "0textures.pk3"])
    assert bank is not None
    assert len(bank.pictures["ground"]) == 1


def test_nothing_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(photographs, "FOLDERS", (str(tmp_path / "missing"),))
    monkeypatch.setattr(photographs, "PACKAGES", {"no_such_package": "data"})
    assert Photographs.installed() is None
    assert Photographs.of([tmp_path]) is None


def test_broken_files_are_passed_over(folder: Path) -> None:
    whole = encoded(noise(), "JPEG")
    (folder / "grass1.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "grass2.png").write_bytes(b"no picture")
    (folder / "grass3.png").write_bytes(encoded(noise()).replace(b"IDAT", b"IDAX", 1))
    (folder / "grass4.jpg").touch()
    (folder / "grass5.png").write_bytes(spoilt(encoded(noise(400, 400)), b"IDAT", 0))
    (folder / "textures.pk3").write_bytes(b"PK no archive")
    with zipfile.ZipFile(folder / "more.pk3", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("floor.png", b"floor" * 1000)
    archived = (folder / "more.pk3").read_bytes()
    (folder / "more.pk3").write_bytes(spoilt(archived, b"floor.png", 9))
    bank = Photographs.of([folder])
    assert bank is not None
    assert len(bank.pictures["ground"]) == 1


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(holed("RGBA"), id="alpha"),
        pytest.param(holed("P"), id="palette"),
        pytest.param(Image.fromarray(noise(40, 40)), id="icon"),
        pytest.param(Image.fromarray(noise(100, 500)), id="strip"),
        pytest.param(Image.new("RGB", (200, 200), "teal"), id="flat"),
    ],
)
def test_sprites_icons_and_flat_pictures_are_passed_over(picture: Image.Image) -> None:
    assert load("grass.png", encoded(picture), 256) is None


def test_pictures_are_kept_small_and_without_a_closed_alpha_channel() -> None:
    picture = Image.fromarray(noise(300, 600))
    picture.putalpha(255)
    pixels = load("grass.png", encoded(picture), 256)
    assert pixels is not None
    assert pixels.shape == (128, 256, 3)


@pytest.fixture
def kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(photographs, "FOLDERS", (str(folder),))
    monkeypatch.setattr(photographs, "PACKAGES", {})
    return tmp_path / "cache" / "longwatch"


def test_bank_is_kept_and_read_without_decoding(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Photographs.installed()
    monkeypatch.setattr(photographs, "load", lambda *_: pytest.fail("decoded again"))
    second = Photographs.installed()
    assert first is not None
    assert second is not None
    for kind, pictures in first.pictures.items():
        for one, other in zip(pictures, second.pictures[kind], strict=True):
            assert np.array_equal(one, other)


def test_kept_bank_is_replaced_once_the_folders_change(kept: Path, folder: Path) -> None:
    Photographs.installed()
    before = list(kept.iterdir())
    (folder / "carpet.png").unlink()
    bank = Photographs.installed()
    assert bank is not None
    assert len(bank.pictures["cloth"]) == 1
    assert len(list(kept.iterdir())) == 1
    assert list(kept.iterdir()) != before


def test_damaged_kept_bank_is_made_again(kept: Path) -> None:
    Photographs.installed()
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    for damaged in (b"PK damaged", b"", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        assert Photographs.installed() is not None
        assert file.stat().st_size == len(whole)


def test_bank_that_cannot_be_kept_is_used_all_the_same(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert Photographs.installed() is not None
