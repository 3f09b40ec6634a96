"""`python -m ovnagent`."""

import sys

from ovnagent.commands.cli import main

sys.exit(main())
