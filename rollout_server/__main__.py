"""`python -m rollout_server`."""

import sys

from rollout_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
