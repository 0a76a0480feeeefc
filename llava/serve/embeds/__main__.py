"""`python -m llava.serve.embeds`."""

import sys

from llava.serve.embeds.command import main

if __name__ == "__main__":
    sys.exit(main())
