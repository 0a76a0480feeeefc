"""`python -m llava.analysis.cost`."""

import sys

from llava.analysis.cost.command import main

if __name__ == "__main__":
    sys.exit(main())
