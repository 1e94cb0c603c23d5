"""`python -m brimful`: the command line."""

from brimful.cli.main import main

if __name__ == "__main__":
    main()
