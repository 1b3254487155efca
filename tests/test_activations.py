"""What passes take is computed from shapes: near what they were seen to take."""

import pytest
import torch
from torch import Tensor

from analyzer.kv.cache import KVChunk
from analyzer.kv.forward import PrefillInput
from analyzer.models.loading import load_model
from analyzer.models.messages import WindowToRemember
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2
from analyzer.models.videoxl2.sizes import encode_bytes, prefill_bytes
from analyzer.models.videoxl2.vision import empty_pixels
from kit.model.chunks import plain_chunk
from kit.model.peak_bytes import peak_bytes
from kit.model.videoxl2 import videoxl2_of

HALF = torch.float16
MARKS = torch.tensor(([True] * 10 + [False] * 144) * 4)


def near(taken: int, computed: int) -> bool:
    return 0.7 * computed < taken < 1.3 * computed


@pytest.fixture(scope="module", name="large")
def make_large() -> VideoXL2:
    """Return the published model without its numbers."""
    with torch.device("meta"):
        return VideoXL2(VideoXL2Config.published("BAAI/Video-XL-2")).to(HALF).eval()


def on_meta(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=HALF, device="meta")


def see(model: VideoXL2, stills: int, kind: torch.dtype) -> None:
    """See as a speaker does, which keeps the pixels in float32."""
    pixels_NCHW = empty_pixels(model.config, stills // 4, model.device).zero_()
    model.encode(pixels_NCHW.to(kind))


@pytest.mark.parametrize("stills", [16, 128])
def test_seeing_with_the_large_model(large: VideoXL2, stills: int) -> None:
    taken = peak_bytes(lambda: see(large, stills, HALF), "meta")
    assert near(taken, encode_bytes(large.config, HALF, stills)), taken
    if stills == 128:
        assert 2.6e9 < taken < 3.0e9


@pytest.mark.parametrize("lanes", [1, 8])
def test_reading_with_the_large_model(large: VideoXL2, lanes: int) -> None:
    keys = on_meta(28, 4, len(MARKS), 128)
    held = [KVChunk(keys, keys, MARKS) for _ in range(4)]
    with torch.inference_mode():
        pieces = [
            PrefillInput(on_meta(len(MARKS), 3584), MARKS, large.cache(held)) for _ in range(lanes)
        ]
    taken = peak_bytes(lambda: large.prefill_all(pieces), "meta")
    assert near(taken, prefill_bytes(large.config, HALF, lanes * len(MARKS))), taken


def test_asking_with_the_large_model(large: VideoXL2) -> None:
    keys = on_meta(28, 4, len(MARKS), 128)
    held = [KVChunk(keys, keys, MARKS) for _ in range(4)]
    with torch.inference_mode():
        caches = [large.cache(held) for _ in range(8)]
    texts = [[0] * 25] * 8
    taken = peak_bytes(lambda: large.forward_texts([(texts, cache) for cache in caches]), "meta")
    assert near(taken, prefill_bytes(large.config, HALF, 8 * 8 * 25)), taken


def test_seeing_and_reading_with_nano() -> None:
    runner = load_model("nano", "cpu")
    model = videoxl2_of(runner)
    config = model.config
    taken = peak_bytes(lambda: see(model, 64, torch.float32), "cpu")
    assert near(taken, encode_bytes(config, torch.float32, 64)), taken
    tokens, seconds = torch.randn(4, config.tokens_per_group, 192), [0.0, 4.0, 8.0, 12.0]
    (chunk,) = runner.prefill([WindowToRemember(tokens, seconds, [])])
    with torch.inference_mode():
        pieces = [
            PrefillInput(*runner.interleave(tokens, seconds), model.cache([plain_chunk(chunk)] * 4))
            for _ in range(8)
        ]
    taken = peak_bytes(lambda: model.prefill_all(pieces), "cpu")
    assert near(taken, prefill_bytes(config, torch.float32, 8 * len(chunk))), taken


def test_an_answer_in_words_takes_one_memory_and_not_its_copy() -> None:
    runner = load_model("nano", "cpu")
    tokens, seconds = torch.randn(4, runner.model.config.tokens_per_group, 192), [0.0, 4.0, 8.0]
    (chunk,) = runner.prefill([WindowToRemember(tokens, [*seconds, 12.0], [])])
    held = [chunk] * 200
    laid = sum(chunk.nbytes for chunk in held)
    taken = peak_bytes(lambda: runner.generate("What happens?", held, limit=4), "cpu")
    assert laid < taken < 1.2 * laid
