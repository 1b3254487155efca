"""The entry point of `longwatch`.

Processes that `multiprocessing` starts may import this module again, and need no command line: so
only `main` loads it.
"""


def main() -> None:
    """Run the command line, which exits."""
    from deploy.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
