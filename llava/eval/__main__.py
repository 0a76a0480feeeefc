"""`python -m llava.eval`."""

import sys

from llava.eval.command import main

if __name__ == "__main__":
    sys.exit(main())
