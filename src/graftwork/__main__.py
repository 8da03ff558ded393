"""`python -m graftwork`: the command line, for environments that do not have it on their path."""

from graftwork.cli import main

if __name__ == "__main__":
    main()
