"""Where `longwatch` begins.

A process that `multiprocessing` starts may read this module again. So only `main` loads the command
line, which no role needs.
"""


def main() -> None:
    """Run the command line; it ends the process."""
    from deploy.cli.app import main as run

    run()


if __name__ == "__main__":
    main()
