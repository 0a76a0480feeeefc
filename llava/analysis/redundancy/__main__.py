"""`python -m llava.analysis.redundancy`."""

import sys

from llava.analysis.redundancy.command import main

if __name__ == "__main__":
    sys.exit(main())
