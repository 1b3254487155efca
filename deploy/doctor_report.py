"""What `longwatch doctor` prints: JSON for machines, tables for people."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table

from deploy.doctor import Diagnosis
from deploy.log_space import LogSpace, log_fields, log_text
from deploy.units import cameras_text, size_text
from storage.duration import format_duration


def doctor_fields(found: Diagnosis, space: LogSpace | None) -> dict[str, Any]:
    """Return what the memory and the log take, what the machine has and what fits."""
    site = found.site
    return {
        "fits": found.fits,
        "model": site.model.name,
        "fetched": found.is_fetched,
        "device": found.device,
        "dtype": found.dtype,
        "cameras": site.cameras,
        "memory": site.memory.model_dump(mode="json"),
        "bytes": {
            "free": found.free,
            "weights": found.weights,
            "token": found.token,
            "chunk": asdict(found.chunk),
            "camera": asdict(found.camera) | {"total": found.camera.total},
            "reading": found.reading,
            "pass": found.passing,
        },
        "rooms": [asdict(room) | {"fits": room.is_enough} for room in found.rooms],
        "horizons": [
            {
                "horizon": format_duration(row.horizon),
                "epoch": format_duration(row.epoch),
                "bytes": row.camera.total,
                "cameras": row.cameras,
            }
            for row in found.rows
        ],
        "changes": list(found.changes),
        "log": space and log_fields(space),
    }


def doctor_parts(found: Diagnosis, space: LogSpace | None) -> Iterator[Table | str]:
    """Yield what the memory and the log take, what the machine has and what fits."""
    site = found.site
    yield _doctor_facts(found)
    yield ""
    rooms = Table("where", f"{cameras_text(site.cameras)} must have", "there is room for", "")
    for room in found.rooms:
        sizes = size_text(room.needed), size_text(room.available)
        rooms.add_row(room.where, *sizes, "fits" if room.is_enough else "does not fit")
    if space is not None and space.disk is not None:
        sizes = size_text(space.growth), size_text(space.disk.free)
        rooms.add_row("disk, for the log", *sizes, "fits" if space.fits_disk else "may fill up")
    yield rooms
    if space is not None:
        yield log_text(space)
    table = Table("horizon", "epoch", "a camera takes", "cameras that fit in memory")
    for row in found.rows:
        is_set = " (yours)" if row.horizon == site.memory.horizon else ""
        times = format_duration(row.horizon) + is_set, format_duration(row.epoch)
        table.add_row(*times, size_text(row.camera.total), str(row.cameras))
    yield table
    if found.fits:
        yield "your settings fit this machine"
    elif found.changes:
        yield "your settings do not fit this machine; each of these alone makes them fit:"
        yield from (f"  {change}" for change in found.changes)
    else:
        yield "your settings do not fit this machine, and no single change makes them fit"


def _doctor_facts(found: Diagnosis) -> Table:
    site, camera, chunk = found.site, found.camera, found.chunk
    known = "" if found.is_fetched else ", not fetched: computed from its published shapes"
    tiers = ", ".join(f"{name} {size_text(size)}" for name, size in asdict(camera).items())
    forms = f"{size_text(chunk.dense)} dense, {size_text(chunk.int8)} in eight bits, "
    forms += f"{size_text(chunk.pooled)} pooled by {site.memory.compression}"
    free = f"{size_text(found.free)} free, the weights take {size_text(found.weights)}"
    table = Table(show_header=False, box=None)
    table.add_row("model", f"{site.model.name}{known}")
    table.add_row("runs on", f"{found.device} as {found.dtype}: {free}")
    table.add_row("a token", size_text(found.token))
    table.add_row("a chunk", f"{chunk.stills} stills: {forms}")
    table.add_row("a pass", f"takes {size_text(found.passing)} at its peak")
    table.add_row("a camera", f"{size_text(camera.total)} when full: {tiers}")
    table.add_row("a pass", f"{size_text(found.reading)} for each camera in it, while it lasts")
    return table
