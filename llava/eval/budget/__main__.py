"""`python -m llava.eval.budget`."""

import sys

from llava.eval.budget.command import main

if __name__ == "__main__":
    sys.exit(main())
