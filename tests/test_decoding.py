"""JPEGs to stills: ahead of time, by threads, and by a decoder that stands where a card would."""

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from analyzer.models.messages import WindowRun
from analyzer.models.runner import ModelRunner
from analyzer.models.stills.decoding import (
    MAX_PREPARED_WINDOWS,
    StillDecoder,
    decode_stills,
    nvjpeg_decoder,
    resize,
)
from kit.model.small_model import small_runner
from storage.errors import Unreadable

CPU = torch.device("cpu")
SIZE = 64, 96


class FakeCardDecoder:
    """Decodes as nvJPEG does, colours alone, and fills what is cut off; counts its batches."""

    def __init__(self) -> None:
        self.batches = list[int]()

    def __call__(self, bits: list[Tensor]) -> list[Tensor]:
        self.batches.append(len(bits))
        return [self._one(bytes(each.numpy())) for each in bits]

    def _one(self, jpeg: bytes) -> Tensor:
        picture = Image.open(io.BytesIO(jpeg))
        if picture.mode == "CMYK":
            raise RuntimeError("Failed to decode the jpeg file")
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def noisy(seed: int, size: tuple[int, int] = (160, 120), mode: str = "RGB") -> bytes:
    r, file = np.random.default_rng(seed), io.BytesIO()
    coarse = Image.fromarray(r.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
    picture = (picture + r.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8)
    Image.fromarray(picture).convert(mode).save(file, "JPEG", quality=85)
    return file.getvalue()


def window(seed: int, stills: int = 4, size: tuple[int, int] = (160, 120)) -> list[bytes]:
    return [noisy(10 * seed + n, size) for n in range(stills)]


def levels(decoder: StillDecoder, windows: Sequence[Sequence[bytes]]) -> list[Tensor]:
    return [one.levels_NCHW.int() for one in decoder.decode(windows)]


def plain(jpegs: Sequence[bytes]) -> Tensor:
    return torch.from_numpy(decode_stills(jpegs, *SIZE)[0]).permute(0, 3, 1, 2).int()


@pytest.mark.parametrize("size", [(640, 480), (97, 201), (40, 30)])
def test_a_still_is_what_pillow_makes_of_it_to_a_level(size: tuple[int, int]) -> None:
    jpeg = noisy(1, size)
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    told = np.asarray(picture.resize((96, 64), Image.Resampling.BICUBIC)).astype(int)
    stills_NHWC, _ = decode_stills([jpeg], *SIZE)
    assert np.abs(stills_NHWC[0] - told).max() <= 1
    assert np.abs(stills_NHWC[0] - told).mean() < 0.25
    pictures_1Chw = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
    on_card = resize(pictures_1Chw, *SIZE)[0].permute(1, 2, 0).numpy()
    assert np.abs(on_card - told).max() <= 1
    assert np.abs(on_card - told).mean() < 0.25


def test_threads_give_what_one_gives() -> None:
    windows = [window(1), window(2, 5, (64, 64)), window(3, 1)]
    for ours, jpegs in zip(levels(StillDecoder(*SIZE, CPU), windows), windows, strict=True):
        assert torch.equal(ours, plain(jpegs))


def test_a_prepared_window_is_decoded_once() -> None:
    decoder = StillDecoder(*SIZE, CPU)
    for _ in range(2):
        decoder.prepare(window(1))
    assert decoder.prepared_count == 1
    assert torch.equal(levels(decoder, [window(1)])[0], plain(window(1)))
    assert decoder.prepared_count == 0
    assert torch.equal(levels(decoder, [window(1)])[0], plain(window(1)))


def test_of_too_many_prepared_windows_the_oldest_are_forgotten() -> None:
    decoder = StillDecoder(*SIZE, CPU)
    windows = [window(seed, 1) for seed in range(MAX_PREPARED_WINDOWS + 3)]
    for jpegs in windows:
        decoder.prepare(jpegs)
    assert decoder.prepared_count == MAX_PREPARED_WINDOWS
    assert torch.equal(levels(decoder, [windows[-1]])[0], plain(windows[-1]))
    assert decoder.prepared_count == MAX_PREPARED_WINDOWS - 1
    assert torch.equal(levels(decoder, [windows[0]])[0], plain(windows[0]))
    assert decoder.prepared_count == MAX_PREPARED_WINDOWS - 1


def test_a_corrupt_window_is_named_and_does_not_stay_prepared() -> None:
    decoder = StillDecoder(*SIZE, CPU)
    decoder.prepare([b"x"])
    with pytest.raises(Unreadable, match="no still is a valid JPEG"):
        decoder.decode([[b"x"]])
    assert decoder.prepared_count == 0


def test_a_card_decodes_all_windows_at_once_as_threads_do() -> None:
    card = FakeCardDecoder()
    windows = [window(1), window(2, 3, (64, 64)), [noisy(5), noisy(6, (64, 64)), noisy(7)]]
    ours = levels(StillDecoder(*SIZE, CPU, card), windows)
    assert card.batches == [10]
    for one, jpegs in zip(ours, windows, strict=True):
        assert (one - plain(jpegs)).abs().max() <= 1


@pytest.mark.parametrize("broken", [noisy(8)[:-400], b"", noisy(9)[2:]])
def test_what_a_card_might_fill_with_grey_is_replaced(broken: bytes) -> None:
    card, damaged = FakeCardDecoder(), [*window(1), broken]
    ours = StillDecoder(*SIZE, CPU, card).decode([window(2), damaged, window(3)])
    assert [one.corrupt for one in ours] == [0, 1, 0]
    assert torch.equal(ours[1].levels_NCHW[4], ours[1].levels_NCHW[3])
    assert card.batches == [4, 4]


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_a_still_that_a_card_refuses_goes_another_way(mode: str) -> None:
    card, odd = FakeCardDecoder(), [noisy(4, mode=mode), noisy(5)]
    ours = StillDecoder(*SIZE, CPU, card).decode([window(1), odd])
    assert [one.corrupt for one in ours] == [0, 0]
    for one, jpegs in zip(ours, (window(1), odd), strict=True):
        assert (one.levels_NCHW.int() - plain(jpegs)).abs().max() <= 1


def test_a_window_without_a_whole_still_is_unreadable_on_a_card_too() -> None:
    for jpegs in ([b"x"], []):
        with pytest.raises(Unreadable, match="no still is a valid JPEG"):
            StillDecoder(*SIZE, CPU, FakeCardDecoder()).decode([window(1), jpegs])


def test_it_decodes_ahead_beside_a_card_that_does_not_decode() -> None:
    card = torch.device("cuda")
    assert StillDecoder(*SIZE, card).can_decode_ahead
    assert not StillDecoder(*SIZE, card, FakeCardDecoder()).can_decode_ahead
    assert not StillDecoder(*SIZE, CPU).can_decode_ahead


def test_there_is_no_card_where_the_model_is_on_the_cpu() -> None:
    assert nvjpeg_decoder(CPU) is None


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


def test_a_run_of_windows_is_seen_as_one_by_one(runner: ModelRunner) -> None:
    first, second = [window(n, 6) for n in range(3)], [window(9, 3)]
    runs = runner.encode([WindowRun(first), WindowRun(second)])
    assert [len(run) for run in runs] == [3, 1]
    for run, windows in zip(runs, (first, second), strict=True):
        background = None
        for seen, jpegs in zip(run, windows, strict=True):
            ((alone,),) = runner.encode([WindowRun([jpegs], background)])
            background = alone.background
            torch.testing.assert_close(seen.tokens_GVE, alone.tokens_GVE)
            assert background is not None
            assert seen.background is not None
            assert torch.equal(seen.background.picture_CHW, background.picture_CHW)


def test_each_window_of_a_run_counts_its_own_corrupt_stills(runner: ModelRunner) -> None:
    ((one, two, three),) = runner.encode([WindowRun([window(1), [*window(2), b"x"], window(3)])])
    assert [one.corrupt, two.corrupt, three.corrupt] == [0, 1, 0]


def test_what_is_prepared_is_what_the_speaker_sees(runner: ModelRunner) -> None:
    ((told,),) = runner.encode([WindowRun([window(1)])])
    runner.prepare(window(1))
    assert runner.still_decoder.prepared_count == 1
    ((ours,),) = runner.encode([WindowRun([window(1)])])
    assert torch.equal(ours.tokens_GVE, told.tokens_GVE)
    assert runner.still_decoder.prepared_count == 0


def test_a_background_does_not_change_with_what_is_seen_later(runner: ModelRunner) -> None:
    """A step that fails is tried again with the background before it."""
    ((first,),) = runner.encode([WindowRun([window(1, 12)])])
    assert first.background is not None
    kept = first.background.picture_CHW.clone()
    runner.encode([WindowRun([window(2, 12)], first.background)])
    assert torch.equal(first.background.picture_CHW, kept)
