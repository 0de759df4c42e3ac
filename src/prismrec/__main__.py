"""`python -m prismrec`: the same as the command `prismrec`."""

from prismrec.cli import main

if __name__ == "__main__":
    main()
