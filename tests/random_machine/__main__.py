"""`python -m tests.random_machine`: see machine.py."""

from __future__ import annotations

import sys

from tests.random_machine.run import main

sys.exit(main())
