"""python -m airpy."""

import sys

from airpy.command import main

sys.exit(main())
