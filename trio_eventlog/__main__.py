"""`python -m trio_eventlog` is `trio-eventlog`."""

import sys

from trio_eventlog.cli import main

if __name__ == "__main__":
    sys.exit(main())
