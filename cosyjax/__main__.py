"""`python -m cosyjax VERB ...` is the same as `cosyjax VERB ...`."""

import sys

from cosyjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
