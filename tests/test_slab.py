"""The slab of host memory: what is kept in it, when it is free again, and what it costs."""

import gc
from datetime import timedelta

import pytest
import structlog
import torch

from analyzer.kv.budget import MemoryPlan, camera_budget
from analyzer.kv.cache import KVChunk
from analyzer.kv.host_slab import ALIGNMENT, HostSlab
from analyzer.kv.int8 import Int8Chunk
from analyzer.watcher import Watcher
from kit.model.chunks import plain_chunks
from kit.model.memory_bytes import tier_bytes
from kit.model.small_model import BEGIN, small_runner, window


def some(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    kinds = (torch.float16, torch.float32, torch.int8)
    return [
        (torch.randn(shape) * 50).to(kinds[nth % len(kinds)]) for nth, shape in enumerate(shapes)
    ]


@pytest.fixture(name="slab")
def make_slab() -> HostSlab:
    return HostSlab(15 * ALIGNMENT, pinned=False)


def test_tensors_are_copied_side_by_side(slab: HostSlab) -> None:
    tensors = some((3, 5), (7,), (2, 2, 2), (0, 4))
    kept = [slab.store(tensor) for tensor in tensors]
    for ours, theirs in zip(kept, tensors, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert ours.data_ptr() % ALIGNMENT == 0 or not ours.numel()
    assert slab.used_bytes == 3 * ALIGNMENT
    assert slab.store(kept[1]) is kept[1]
    tensors[0].zero_()
    assert kept[0].any()


def test_what_is_not_contiguous_is_kept_as_it_reads(slab: HostSlab) -> None:
    (tensor,) = some((4, 6))
    kept = slab.store(tensor.T)
    assert torch.equal(kept, tensor.T)
    assert kept.is_contiguous()


def test_a_stretch_is_free_once_the_last_view_is_gone(slab: HostSlab) -> None:
    first, second = map(slab.store, some((8,), (8,)))
    view = second.view(2, 4)[1]
    value = view.clone()
    del first, second
    gc.collect()
    assert slab.used_bytes == ALIGNMENT
    slab.store(torch.ones(14 * ALIGNMENT, dtype=torch.int8))
    assert torch.equal(view, value)
    del view
    gc.collect()
    assert slab.used_bytes == 0


def test_neighbouring_stretches_become_one_again(slab: HostSlab) -> None:
    parts = [slab.store(torch.zeros(4 * ALIGNMENT, dtype=torch.int8)) for _ in range(4)]
    assert slab.used_bytes == slab.nbytes
    last = parts.pop()
    while parts:
        parts.pop(len(parts) // 2)
    whole = slab.store(torch.ones(12 * ALIGNMENT, dtype=torch.int8))
    assert slab.used_bytes == slab.nbytes
    assert not last.any()
    assert whole.all()


def test_a_full_slab_says_so_once_and_takes_pageable_memory(slab: HostSlab) -> None:
    large = torch.arange(8 * ALIGNMENT, dtype=torch.int16)
    with structlog.testing.capture_logs() as logged:
        held = [slab.store(large) for _ in range(3)]
    assert [line["event"] for line in logged] == [
        "host memory for offloaded chunks is full: using pageable memory"
    ]
    assert all(torch.equal(one, large) for one in held)
    assert [slab.is_in_slab(one) for one in held] == [True, False, False]
    assert slab.used_bytes == slab.nbytes


def test_it_holds_for_ever_what_fits_once() -> None:
    """Chunks of slowly changing lengths, the oldest of them forgotten, as a memory does."""
    slab = HostSlab((29 + 2) * 62_000, pinned=False)
    held = list[torch.Tensor]()
    with structlog.testing.capture_logs() as logged:
        for nth in range(500):
            length = 61_000 + 20 * (nth // 10)
            held = [*held[-28:], slab.store(torch.ones(length, dtype=torch.int8))]
    assert logged == []
    assert all(bool(tensor.all()) for tensor in held)


@pytest.mark.parametrize("int8", [False, True])
def test_law_6_holds_with_a_slab(int8: bool) -> None:
    """The ledger is the bytes held; the slab that was asked for is hardly larger when full."""
    runner, horizon = small_runner(), timedelta(seconds=384)
    plan = MemoryPlan(horizon=horizon, focus_horizon=horizon, recent=2, int8=int8)
    chunk, tokens = runner.shape_only_chunk(16, plan.epoch)
    most = camera_budget(plan, chunk, tokens, timedelta(seconds=16))
    # A chunk comes before the one that it takes the place of goes.
    slab = HostSlab(2 * (most.focus + most.tokens) + chunk.nbytes + tokens, pinned=False)
    watcher = Watcher(runner, [], plan, most, slab)
    cameras = ("dock", "gate")
    begins = {
        camera: plan.epoch_origin(BEGIN, camera) + timedelta(seconds=1200) for camera in cameras
    }
    with structlog.testing.capture_logs() as logged:
        for nth in range(30):
            for camera in cameras:
                watcher.restore([window(nth, camera, begin=begins[camera])])
    assert logged == []
    ledgers = [tier_bytes(watcher.memory_of(camera)) for camera in cameras]
    assert all(ledger == most for ledger in ledgers)
    waiting = sum(ledger.focus + ledger.tokens for ledger in ledgers)
    assert slab.nbytes < 1.1 * waiting
    assert 0.9 * waiting < slab.used_bytes <= slab.nbytes
    oldest = watcher.memory_of("dock").chunks[0]
    assert isinstance(oldest.dense, Int8Chunk if int8 else KVChunk)
    for tensor in (oldest.tokens_GVE, oldest.dense.keys_NKTD, oldest.dense.values_NKTD):
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_what_waits_in_a_slab_is_what_would_wait_without() -> None:
    runner, held = small_runner(), list[list[torch.Tensor]]()
    plan = MemoryPlan(horizon=timedelta(seconds=96), focus_horizon=timedelta(seconds=96), recent=1)
    for slab in (None, HostSlab(10**7, pinned=False)):
        watcher = Watcher(runner, [], plan, slab=slab)
        memory = watcher.memory_of("dock")
        for nth in range(5):
            watcher.restore([window(nth)])
        views = memory.context(timedelta.max, focus=range(5))
        held.append([chunk.keys_NKTD for chunk in plain_chunks(views)])
    assert all(map(torch.equal, *held))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_on_a_card_it_is_pinned_and_no_larger_than_asked_for() -> None:
    slab = HostSlab(10_000_000)
    assert slab.is_pinned
    assert slab.nbytes < 1.05 * 10_000_000
    there = torch.randn(1000, 1000, device="cuda")
    kept = slab.store(there)
    slab.wait()
    assert kept.is_pinned()
    assert torch.equal(kept, there.cpu())
    assert torch.equal(kept.cuda(), there)
