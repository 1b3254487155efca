"""What the processes of cameras share: a fork server loads this module once and forks them.

All that is loaded here must be safe to fork: no thread, no open log, no database, no connection.
What one role alone needs, torch or a client of Kafka, that role loads.
"""

import gc
from importlib import import_module

from deploy.daemon import limit_threads

_MODULES = ("deploy.opening", "ingest.worker", "storage.opening", "storage.sqlite_log")

limit_threads(1)  # those of numpy start when it is loaded
for _name in _MODULES:
    import_module(_name)
# A collection in a process would write to the pages of all that is here, and so copy them.
gc.collect()
gc.freeze()
