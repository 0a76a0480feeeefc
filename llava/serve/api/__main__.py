"""`python -m llava.serve.api`."""

import sys

from llava.serve.api.command import main

if __name__ == "__main__":
    sys.exit(main())
