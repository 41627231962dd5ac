"""``python -m ctxcomp`` is ``ctxcomp``."""

import sys

from ctxcomp.cli import main

if __name__ == "__main__":
    sys.exit(main())
