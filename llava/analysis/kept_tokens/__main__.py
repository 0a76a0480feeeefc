"""`python -m llava.analysis.kept_tokens`."""

import sys

from llava.analysis.kept_tokens.command import main

if __name__ == "__main__":
    sys.exit(main())
