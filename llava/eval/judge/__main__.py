"""`python -m llava.eval.judge`."""

import sys

from llava.eval.judge.command import main

if __name__ == "__main__":
    sys.exit(main())
