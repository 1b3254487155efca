"""The bytes of a memory."""

from analyzer.kv.budget import TierBytes
from analyzer.kv.memory import Memory, dense_bytes, pooled_bytes


def tier_bytes(memory: Memory) -> TierBytes:
    """Return the bytes of all chunks by tier, without the next epoch."""
    recent = max(0, len(memory.chunks) - memory.plan.recent)
    return TierBytes(
        recent=dense_bytes(memory.chunks[recent:]),
        focus=dense_bytes(memory.chunks[:recent]),
        gist=sum(map(pooled_bytes, memory.chunks)),
        tokens=sum(chunk.tokens_GVE.nbytes for chunk in memory.chunks),
    )
