"""Turn the library into running processes: command line, settings, wiring, supervision."""
