"""`python -m streamserve`: the same as the command `streamserve`."""

from streamserve.cli import main

if __name__ == "__main__":
    main()
