"""The published 8B model, built without memory, against the reference's names and shapes."""

from collections.abc import Iterable

import pytest
import torch

from analyzer.models.videoxl2.checkpoint_keys import reference_name
from analyzer.models.videoxl2.config import VideoXL2Config
from analyzer.models.videoxl2.model import VideoXL2, build_meta_model
from kit.model.checkpoints import PUBLISHED, write_json

Shapes = dict[str, tuple[int, ...]]

WIDTH, MLP, KEYS, VOCABULARY = 3584, 18944, 512, 152064
CHANNELS, TOWER_MLP = 1152, 4304
LAYER = "model.layers.*"
TOWER = "model.vision_tower.vision_tower.vision_model"
TOWER_LAYER = f"{TOWER}.encoder.layers.*"
SYNTHESIS = "model.sae.encoder.*"
Rows = list[tuple[str, Iterable[int], tuple[int, ...]]]
"""A name, the numbers that its star stands for, and the shape."""
MODULES: Rows = [
    (f"{LAYER}.self_attn.q_proj", range(28), (WIDTH, WIDTH)),
    (f"{LAYER}.self_attn.k_proj", range(28), (KEYS, WIDTH)),
    (f"{LAYER}.self_attn.v_proj", range(28), (KEYS, WIDTH)),
    ("model.mm_projector.*", [0], (WIDTH, CHANNELS)),
    ("model.mm_projector.*", [2], (WIDTH, WIDTH)),
    (f"{SYNTHESIS}.norm", [0, 1, 3, 4], (CHANNELS,)),
    (f"{SYNTHESIS}.q", [0, 3], (CHANNELS, CHANNELS, 1, 1, 1)),
    (f"{SYNTHESIS}.k", [0, 3], (CHANNELS, CHANNELS, 1, 1, 1)),
    (f"{SYNTHESIS}.v", [0, 3], (CHANNELS, CHANNELS, 1, 1, 1)),
    (f"{SYNTHESIS}.proj_out", [0, 3], (CHANNELS, CHANNELS, 1, 1, 1)),
    (f"{SYNTHESIS}.qkv", [1, 4], (3 * CHANNELS, CHANNELS, 1)),
    (f"{SYNTHESIS}.proj_out", [1, 4], (CHANNELS, CHANNELS, 1)),
    (f"{SYNTHESIS}.conv", [2, 5], (CHANNELS, CHANNELS, 3, 3, 3)),
    (f"{TOWER}.embeddings.patch_embedding", [0], (CHANNELS, 3, 14, 14)),
    (f"{TOWER}.post_layernorm", [0], (CHANNELS,)),
    (f"{TOWER_LAYER}.layer_norm1", range(26), (CHANNELS,)),
    (f"{TOWER_LAYER}.layer_norm2", range(26), (CHANNELS,)),
    (f"{TOWER_LAYER}.self_attn.q_proj", range(26), (CHANNELS, CHANNELS)),
    (f"{TOWER_LAYER}.self_attn.k_proj", range(26), (CHANNELS, CHANNELS)),
    (f"{TOWER_LAYER}.self_attn.v_proj", range(26), (CHANNELS, CHANNELS)),
    (f"{TOWER_LAYER}.self_attn.out_proj", range(26), (CHANNELS, CHANNELS)),
    (f"{TOWER_LAYER}.mlp.fc1", range(26), (TOWER_MLP, CHANNELS)),
    (f"{TOWER_LAYER}.mlp.fc2", range(26), (CHANNELS, TOWER_MLP)),
]
"""Those with a weight of this shape and a bias as long as its first side."""
TENSORS: Rows = [
    ("lm_head.weight", [0], (VOCABULARY, WIDTH)),
    ("model.embed_tokens.weight", [0], (VOCABULARY, WIDTH)),
    ("model.norm.weight", [0], (WIDTH,)),
    (f"{LAYER}.input_layernorm.weight", range(28), (WIDTH,)),
    (f"{LAYER}.post_attention_layernorm.weight", range(28), (WIDTH,)),
    (f"{LAYER}.self_attn.o_proj.weight", range(28), (WIDTH, WIDTH)),
    (f"{LAYER}.mlp.gate_proj.weight", range(28), (MLP, WIDTH)),
    (f"{LAYER}.mlp.up_proj.weight", range(28), (MLP, WIDTH)),
    (f"{LAYER}.mlp.down_proj.weight", range(28), (WIDTH, MLP)),
    ("model.sae.temporal_encoding", [0], (4, CHANNELS)),
    (f"{SYNTHESIS}.relative_position_k.embeddings_table", [1, 4], (129, CHANNELS)),
    (f"{SYNTHESIS}.relative_position_v.embeddings_table", [1, 4], (129, CHANNELS)),
    (f"{TOWER}.embeddings.position_embedding.weight", [0], (729, CHANNELS)),
]


def published_shapes() -> Shapes:
    """Return the names and shapes of the reference's weights, layer by layer."""
    weights = [(f"{name}.weight", numbers, shape) for name, numbers, shape in MODULES]
    biases = [(f"{name}.bias", numbers, shape[:1]) for name, numbers, shape in MODULES]
    return {
        name.replace("*", str(number)): shape
        for name, numbers, shape in TENSORS + weights + biases
        for number in numbers
    }


@pytest.fixture(name="model", scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> VideoXL2:
    path = tmp_path_factory.mktemp("published") / "config.json"
    write_json(path, PUBLISHED)
    return build_meta_model(VideoXL2Config.read(path))


def test_names_and_shapes_are_the_references(model: VideoXL2) -> None:
    ours = {reference_name(key): tuple(w.shape) for key, w in model.state_dict().items()}
    expected = published_shapes()
    assert sorted(ours.keys() ^ expected.keys()) == []
    assert {
        name: (ours[name], expected[name]) for name in expected if ours[name] != expected[name]
    } == {}


def test_every_parameter_is_a_weight_and_takes_no_memory(model: VideoXL2) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert parameters.keys() == model.state_dict().keys()
    assert {weight.device for weight in parameters.values()} == {torch.device("meta")}


def test_numbers_of_parameters_are_the_references(model: VideoXL2) -> None:
    assert sum(weight.numel() for weight in model.parameters()) == 8_123_871_520
    assert sum(weight.numel() for weight in model.sae.parameters()) == 93_526_272
    assert model.config.tokens_per_group == 144
