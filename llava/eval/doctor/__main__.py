"""`python -m llava.eval.doctor`."""

import sys

from llava.eval.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
