"""The diagnosis of `longwatch doctor`, as JSON and as tables."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from deploy.checks.capacity import Diagnosis
from deploy.config.log_space import LogSpace, format_log_space, log_space_fields
from deploy.format_bytes import format_bytes, format_camera_count
from storage.duration import format_duration


def doctor_fields(diagnosis: Diagnosis, space: LogSpace | None) -> dict[str, Any]:
    """Return what memory and log need, what the machine has and what fits, as JSON."""
    site = diagnosis.site
    return {
        "fits": diagnosis.has_room,
        "model": site.model.name,
        "fetched": diagnosis.is_fetched,
        "device": diagnosis.device,
        "dtype": diagnosis.dtype,
        "cameras": site.cameras,
        "memory": site.memory.model_dump(mode="json"),
        "bytes": {
            "free": diagnosis.free_bytes,
            "weights": diagnosis.weight_bytes,
            "token": diagnosis.token_bytes,
            "chunk": asdict(diagnosis.chunk_bytes),
            "camera": asdict(diagnosis.camera_bytes) | {"total": diagnosis.camera_bytes.total},
            "reading": diagnosis.pass_bytes_per_camera,
            "pass": diagnosis.pass_bytes,
        },
        "rooms": [asdict(room) | {"fits": room.is_enough} for room in diagnosis.rooms],
        "horizons": [
            {
                "horizon": format_duration(row.horizon),
                "epoch": format_duration(row.epoch),
                "bytes": row.camera_bytes.total,
                "cameras": row.cameras,
            }
            for row in diagnosis.horizons
        ],
        "changes": list(diagnosis.changes),
        "log": space and log_space_fields(space),
    }


def doctor_parts(diagnosis: Diagnosis, space: LogSpace | None) -> Iterator[Table | str]:
    """Yield the same as tables and lines."""
    site = diagnosis.site
    yield _facts_table(diagnosis)
    yield ""
    rooms = Table("where", f"{format_camera_count(site.cameras)} need", "there is room for", "")
    for room in diagnosis.rooms:
        sizes = format_bytes(room.needed), format_bytes(room.available)
        rooms.add_row(room.where, *sizes, "fits" if room.is_enough else "does not fit")
    if space is not None and space.disk is not None:
        sizes = format_bytes(space.growth), format_bytes(space.disk.free_bytes)
        rooms.add_row("disk, for the log", *sizes, "fits" if space.has_disk_room else "may fill up")
    yield rooms
    if space is not None:
        yield format_log_space(space)
    table = Table("horizon", "epoch", "a camera takes", "cameras that fit in memory")
    for row in diagnosis.horizons:
        is_set = " (yours)" if row.horizon == site.memory.horizon else ""
        times = format_duration(row.horizon) + is_set, format_duration(row.epoch)
        table.add_row(*times, format_bytes(row.camera_bytes.total), str(row.cameras))
    yield table
    if diagnosis.has_room:
        yield "your settings fit this machine"
    elif diagnosis.changes:
        yield "your settings do not fit this machine; each of these alone makes them fit:"
        yield from (f"  {change}" for change in diagnosis.changes)
    else:
        yield "your settings do not fit this machine, and no single change makes them fit"


def _facts_table(diagnosis: Diagnosis) -> Table:
    site, camera, chunk = diagnosis.site, diagnosis.camera_bytes, diagnosis.chunk_bytes
    known = "" if diagnosis.is_fetched else ", not fetched: computed from its published shapes"
    tiers = ", ".join(f"{name} {format_bytes(size)}" for name, size in asdict(camera).items())
    forms = f"{format_bytes(chunk.dense)} dense, {format_bytes(chunk.int8)} in eight bits, "
    forms += f"{format_bytes(chunk.pooled)} pooled by {site.memory.compression}"
    free = f"{format_bytes(diagnosis.free_bytes)} free"
    free += f", the weights take {format_bytes(diagnosis.weight_bytes)}"
    table = Table(show_header=False, box=None)
    table.add_row("model", f"{site.model.name}{known}")
    table.add_row("runs on", f"{diagnosis.device} as {diagnosis.dtype}: {free}")
    table.add_row("a token", format_bytes(diagnosis.token_bytes))
    table.add_row("a chunk", f"{chunk.stills} stills: {forms}")
    table.add_row("a pass", f"takes {format_bytes(diagnosis.pass_bytes)} at its peak")
    table.add_row("a camera", f"{format_bytes(camera.total)} when full: {tiers}")
    table.add_row(
        "a pass",
        f"{format_bytes(diagnosis.pass_bytes_per_camera)} for each camera in it, while it lasts",
    )
    return table
