"""Where the judge and the keeper of the ledger go on in the log.

Their positions stand in the database: each moves in the transaction of what was read.
"""

import structlog

from storage.errors import BeyondEnd
from storage.incidents import IncidentStore
from storage.log import Entry, Log, after_loss

READER = "alerts"

_say = structlog.get_logger("alerts.reading")


def read_on(log: Log, store: IncidentStore, part: str, limit: int) -> tuple[int, list[Entry]]:
    """Return the position in a part of the log, and what stands there.

    The first entry is further on where the log no longer kept what was at the position. Where
    it ends before the position, the position is first taken back.
    """
    position = store.position(READER, part)
    try:
        entries = log.read(part, position, limit)
    except BeyondEnd as error:
        back = after_loss(log, part, error)
        _say.error(str(error), again_from=back)
        with store.transaction() as ledger:
            ledger.advance(READER, part, position, back)
        return back, log.read(part, back, limit)
    if entries and entries[0].position > position:
        missed = entries[0].position - position
        _say.error("entries missed: the log no longer kept them", part=part, missed=missed)
    return position, entries
