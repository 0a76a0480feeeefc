"""`python -m llava.eval.reproduce`."""

import sys

from llava.eval.reproduce.command import main

if __name__ == "__main__":
    sys.exit(main())
