"""The command line: one file a verb, no logic. Libraries are imported when a verb runs."""

import os


def main() -> None:
    """Run the command line on the arguments of the process, and leave it with an exit code."""
    # Threads that wait for work by spinning make training ten times slower as soon as another process needs a
    # core. Set before any library starts them; a value of your own stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from prismrec.cli.app import app

    app(prog_name="prismrec")
