"""Stills as a camera sends them, and groups that are not full."""

import io

import pytest
import torch
from PIL import Image
from small_model import small_speaker

from analyzer.videoxl2.decoding import decode
from analyzer.videoxl2.speaker import Speaker
from analyzer.videoxl2.vision import SETTLED, ConvStem, follow, group, normalise
from storage.errors import Unreadable


def jpeg(shade: int, mode: str = "RGB", size: tuple[int, int] = (96, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, shade).convert(mode).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def speaker() -> Speaker:
    return small_speaker()


@pytest.mark.parametrize("stills", range(1, 10))
def test_last_still_fills_the_last_group(speaker: Speaker, stills: int) -> None:
    torch.manual_seed(stills)
    pixels = torch.randn(stills, 6, 32, 48)
    filled = torch.cat([pixels, pixels[-1:].expand(-stills % 4, -1, -1, -1)])
    with torch.inference_mode():
        tokens = speaker.model.see(pixels)
        torch.testing.assert_close(tokens, speaker.model.see(filled))
    assert len(tokens) == -(-stills // 4)


def test_a_group_takes_the_memory_of_four_stills_as_it_lies() -> None:
    features = torch.arange(8 * 12 * 2.0).view(8, 12, 1, 2)
    grouped = group(features)
    assert grouped.shape == (2, 12, 4, 1, 2)
    for flat in range(48):
        assert torch.equal(grouped[1, flat // 4, flat % 4], features[4 + flat // 12, flat % 12])


@pytest.mark.parametrize("broken", [b"", b"GIF89a", jpeg(90)[:200]])
def test_corrupt_still_is_replaced_by_the_one_before_it(broken: bytes) -> None:
    stills, corrupt = decode([jpeg(10), broken, broken, jpeg(200), broken], 64, 96)
    assert corrupt == 3
    assert [int(picture.mean()) for picture in stills] == [10, 10, 10, 200, 200]


def test_first_still_if_corrupt_is_replaced_by_the_one_behind_it() -> None:
    stills, corrupt = decode([b"x", jpeg(50)], 64, 96)
    assert (corrupt, [int(picture.mean()) for picture in stills]) == (1, [50, 50])


@pytest.mark.parametrize("jpegs", [[], [b"x", b"y"]])
def test_window_without_a_whole_still_is_unreadable(jpegs: list[bytes]) -> None:
    with pytest.raises(Unreadable, match="no still is a whole JPEG"):
        decode(jpegs, 64, 96)


def test_grey_stills_of_any_size_are_seen(speaker: Speaker) -> None:
    odd = [jpeg(60, "L", (33, 7)), jpeg(60, "L", (641, 480)), jpeg(60, "CMYK", (64, 64))]
    stills, corrupt = decode(odd, 64, 96)
    assert (stills.shape, corrupt) == ((3, 64, 96, 3), 0)
    chunk, _ = speaker.watch(odd, [0.0, 1.0, 2.0], None, ())
    assert int((~chunk.anchors_T).sum()) == speaker.model.config.tokens_per_group


def test_preprocessing_is_the_towers() -> None:
    levels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(levels).flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6])


@pytest.mark.parametrize("side", [8, 16])
def test_a_stem_makes_one_feature_of_each_patch(side: int) -> None:
    stem = ConvStem(24, side, 6).eval()
    pixels = torch.zeros(1, 6, 2 * side, 3 * side)
    lit = pixels.clone()
    lit[..., -side // 4 :, -side // 4 :] = 1
    with torch.inference_mode():
        moved = (stem(lit) - stem(pixels)).abs().sum(-1)[0]
    assert moved.shape == (6,)
    assert moved.argmax() == 5
    assert moved[0] == 0


def test_the_first_background_is_the_median_of_what_was_seen() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(SETTLED, 3, 4, 4)
    differences, background = follow(None, pixels)
    for n in range(SETTLED):
        assert torch.equal(differences[n], pixels[n] - pixels[: n + 1].median(0).values)
    assert torch.equal(background.picture_CHW, pixels.median(0).values)
