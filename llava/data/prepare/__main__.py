"""`python -m llava.data.prepare`."""

import sys

from llava.data.prepare.command import main

if __name__ == "__main__":
    sys.exit(main())
