"""The command line: one file a verb, no logic. Libraries are imported when a verb runs."""


def main() -> None:
    """Run the command line on the arguments of the process, and leave it with an exit code."""
    from prismrec.cli.app import app

    app(prog_name="prismrec")
