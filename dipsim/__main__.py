"""The program, as ``python -m dipsim`` runs it."""

from dipsim.cli import main

if __name__ == "__main__":
    main()
