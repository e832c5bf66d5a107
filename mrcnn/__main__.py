"""`python -m mrcnn` is the command `mrcnn`."""

import sys

from mrcnn.cli import main

sys.exit(main())
