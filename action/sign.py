"""Runs the action's steps: `sign.py` signs, `sign.py clean` removes what a killed run left.

Started by action.yml with the runner's own Python (3.9 or newer), which has to have nothing else.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Isolated mode (-I) leaves the script's directory out; nothing else is looked for there.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from runner.main import main

sys.exit(main(sys.argv[1:]))
