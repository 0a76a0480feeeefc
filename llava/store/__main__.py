"""`python -m llava.store`."""

import sys

from llava.store.command import main

if __name__ == "__main__":
    sys.exit(main())
