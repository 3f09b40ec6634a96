"""`python -m ovnagent`."""

import sys

from ovnagent.commands.entry import main

sys.exit(main())
