"""Stills as a camera sends them, and groups that are not full."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from analyzer.models.runner import ModelRunner
from analyzer.models.stills.decoding import decode_stills
from analyzer.models.videoxl2.dts import DynamicTokenSynthesis
from analyzer.models.videoxl2.vision import (
    BACKGROUND_STEP,
    BACKGROUND_STILLS,
    ConvStem,
    VisionTower,
    embed_patches,
    group_stills,
    normalise,
    subtract_background,
)
from analyzer.nano.workshop.prefill import encode_and_prefill
from kit.model.small_model import small_runner
from kit.model.videoxl2 import videoxl2_of
from storage.errors import Unreadable


def jpeg(shade: int, mode: str = "RGB", size: tuple[int, int] = (96, 64)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, shade).convert(mode).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


@pytest.mark.parametrize("stills", range(1, 10))
def test_last_still_fills_the_last_group(runner: ModelRunner, stills: int) -> None:
    torch.manual_seed(stills)
    pixels = torch.randn(stills, 6, 32, 48)
    filled = torch.cat([pixels, pixels[-1:].expand(-stills % 4, -1, -1, -1)])
    with torch.inference_mode():
        tokens = runner.model.encode(pixels)
        torch.testing.assert_close(tokens, runner.model.encode(filled))
    assert len(tokens) == -(-stills // 4)


def test_a_group_takes_the_memory_of_four_stills_as_it_lies() -> None:
    features = torch.arange(8 * 12 * 2.0).view(8, 12, 1, 2)
    grouped = group_stills(features)
    assert grouped.shape == (2, 12, 4, 1, 2)
    for flat in range(48):
        assert torch.equal(grouped[1, flat // 4, flat % 4], features[4 + flat // 12, flat % 12])


@pytest.mark.parametrize("broken", [b"", b"GIF89a", jpeg(90)[:200]])
def test_corrupt_still_is_replaced_by_the_one_before_it(broken: bytes) -> None:
    stills, corrupt = decode_stills([jpeg(10), broken, broken, jpeg(200), broken], 64, 96)
    assert corrupt == 3
    assert [int(picture.mean()) for picture in stills] == [10, 10, 10, 200, 200]


def test_first_still_if_corrupt_is_replaced_by_the_one_behind_it() -> None:
    stills, corrupt = decode_stills([b"x", jpeg(50)], 64, 96)
    assert (corrupt, [int(picture.mean()) for picture in stills]) == (1, [50, 50])


@pytest.mark.parametrize("jpegs", [[], [b"x", b"y"]])
def test_window_without_a_whole_still_is_unreadable(jpegs: list[bytes]) -> None:
    with pytest.raises(Unreadable, match="no still is a valid JPEG"):
        decode_stills(jpegs, 64, 96)


def test_grey_stills_of_any_size_are_seen(runner: ModelRunner) -> None:
    odd = [jpeg(60, "L", (33, 7)), jpeg(60, "L", (641, 480)), jpeg(60, "CMYK", (64, 64))]
    stills, corrupt = decode_stills(odd, 64, 96)
    assert (stills.shape, corrupt) == ((3, 64, 96, 3), 0)
    chunk, _ = encode_and_prefill(runner, odd, [0.0, 1.0, 2.0], None, ())
    assert int((~chunk.anchors_T).sum()) == runner.model.config.tokens_per_group


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


def test_a_stem_folds_its_norms_where_nothing_is_learnt() -> None:
    torch.manual_seed(0)
    stem, pixels = ConvStem(24, 16, 6), torch.randn(4, 6, 32, 48)
    for _ in range(3):
        stem(torch.randn(4, 6, 32, 48) + 0.5)
    stem.eval()
    told = stem.layers(pixels).flatten(2).transpose(1, 2) + stem.position
    torch.testing.assert_close(stem(pixels), told, atol=1e-5, rtol=1e-5)
    stem(pixels).sum().backward()
    assert all(parameter.grad is not None for parameter in stem.parameters())


def patch_tower(side: int, grid: tuple[int, int]) -> VisionTower:
    config, square = videoxl2_of(small_runner()).config, 3 * side + 3
    tower = {**config.tower, "patch_size": side, "image_size": square}
    shape: dict[str, Any] = {"height": square, "width": square, "grid": grid, "stem": "patch"}
    return VisionTower(replace(config, tower=tower, **shape)).eval()


def test_patches_are_embedded_as_siglip_does() -> None:
    torch.manual_seed(0)
    embeddings: Any = patch_tower(14, (2, 2)).vision_model.embeddings
    pixels = torch.randn(2, 3, 45, 45)
    torch.testing.assert_close(embed_patches(embeddings, pixels), embeddings(pixels))


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (4, 5)])
def test_features_are_interpolated_onto_the_grid(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tower, pixels = patch_tower(14, grid), torch.randn(2, 3, 45, 45)
    with torch.inference_mode():
        features = tower(pixels)
        alike = patch_tower(14, (3, 3))
        alike.load_state_dict(tower.state_dict())
        expected = F.interpolate(alike(pixels), grid, mode="bilinear")
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)
    tower(pixels).sum().backward()


def synthesis() -> DynamicTokenSynthesis:
    torch.manual_seed(0)
    made = DynamicTokenSynthesis(64)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1)
    return made


class Convolutions(TorchDispatchMode):
    """Notes the dimensions of what is convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.dimensions = list[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.dimensions.append(args[0].dim())
        return func(*args, **(kwargs or {}))


def test_synthesis_calls_no_3d_convolution() -> None:
    """They are wrong in bfloat16 with the cuDNN of torch 2.9."""
    with Convolutions() as convolutions:
        synthesis()(torch.randn(2, 64, 4, 3, 5))
    assert convolutions.dimensions == [4, 4]


@pytest.mark.parametrize(("dtype", "off"), [(torch.float16, 0.005), (torch.bfloat16, 0.04)])
def test_synthesis_is_right_in_half_precision(dtype: torch.dtype, off: float) -> None:
    made, features = synthesis(), torch.randn(2, 64, 4, 3, 5)
    with torch.inference_mode():
        told = made(features)
        halved = made.to(dtype)(features.to(dtype)).float()
    assert (halved - told).norm() < off * told.norm()


def test_the_first_background_is_the_median_of_what_was_seen() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(BACKGROUND_STILLS, 3, 4, 4)
    differences, background = subtract_background(None, pixels)
    for n in range(BACKGROUND_STILLS):
        assert torch.equal(differences[n], pixels[n] - pixels[: n + 1].median(0).values)
    assert torch.equal(background.picture_CHW, pixels.median(0).values)
    assert not len(background.first_NCHW)


def test_a_settled_background_moves_by_a_step_towards_each_still() -> None:
    torch.manual_seed(0)
    pixels = torch.rand(40, 3, 4, 4)
    _, background = subtract_background(None, pixels[:BACKGROUND_STILLS])
    differences, after = subtract_background(background, pixels[BACKGROUND_STILLS:])
    picture = background.picture_CHW
    for still, difference in zip(pixels[BACKGROUND_STILLS:], differences, strict=True):
        picture = picture + (still - picture).clamp(-BACKGROUND_STEP, BACKGROUND_STEP)
        assert torch.equal(difference, still - picture)
    assert torch.equal(after.picture_CHW, picture)
