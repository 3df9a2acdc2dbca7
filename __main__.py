"""``python -m foreshock``: the command line, also where the script ``foreshock`` is not on the path."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
