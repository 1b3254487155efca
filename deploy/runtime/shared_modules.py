"""The modules that all cameras load: a fork server imports this one, then forks their processes.

Nothing here may start a thread, or open a log, a database or a connection. A role imports itself
what the others do not need, such as torch or the client of Kafka.
"""

import gc
from importlib import import_module

from PIL import Image

from deploy.runtime.process import limit_threads

_MODULES = (
    "deploy.runtime.roles",
    "deploy.runtime.wait_for",
    "ingest.worker",
    "storage.log.open_log",
    "storage.log.sqlite.log",
)
_LOADED_WHEN_USED = (
    "av.subtitles.stream",  # by PyAV, for each stream that it opens
    "encodings.idna",  # by socket, for each name of a host
    # By multiprocessing, as a process starts:
    "deploy.runtime.forked",
    "multiprocessing.popen_forkserver",
    "multiprocessing.sharedctypes",
    "pkgutil",
)
"""Modules that libraries import on first use: each process would have its own copy."""

limit_threads(1)  # numpy starts its threads when it is imported
for _name in (*_MODULES, *_LOADED_WHEN_USED):
    import_module(_name)
Image.preinit()  # Pillow imports its formats on first use
# Garbage collection in a process would write to the pages of these objects, and so copy them.
gc.collect()
gc.freeze()
