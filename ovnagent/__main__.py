"""`python -m ovnagent`."""

import sys

from ovnagent.cli import main

sys.exit(main())
