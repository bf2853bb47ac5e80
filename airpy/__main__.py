"""python -m airpy."""

import sys

from airpy.cli import main

sys.exit(main())
