"""`python -m llava.eval.compare`."""

import sys

from llava.eval.compare.command import main

if __name__ == "__main__":
    sys.exit(main())
