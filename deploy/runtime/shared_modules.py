"""What the processes of cameras share: a fork server loads this module once and forks them.

All that is loaded here must be safe to fork: no thread, no open log, no database, no connection.
What one role alone needs, torch or a client of Kafka, that role loads.
"""

import gc
from importlib import import_module

from PIL import Image

from deploy.runtime.daemon import limit_threads

_MODULES = (
    "deploy.runtime.wait_for",
    "ingest.worker",
    "storage.log.open_log",
    "storage.log.sqlite.log",
)
_LOADED_WHEN_USED = (
    "av.subtitles.stream",  # by PyAV, for each stream that it opens
    "encodings.idna",  # by socket, for each name of a host
    # By multiprocessing, to be a process:
    "deploy.runtime.forked",
    "multiprocessing.popen_forkserver",
    "multiprocessing.sharedctypes",
    "pkgutil",
)
"""What libraries load only when a camera's process uses it: each would have a copy of its own."""

limit_threads(1)  # those of numpy start when it is loaded
for _name in (*_MODULES, *_LOADED_WHEN_USED):
    import_module(_name)
Image.preinit()  # Pillow looks for its formats when the first is used
# A collection in a process would write to the pages of all that is here, and so copy them.
gc.collect()
gc.freeze()
