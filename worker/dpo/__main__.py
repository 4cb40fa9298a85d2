"""`python -m worker.dpo train|score|generate|merge|export|estimate`: the engine as a program of its own."""

import sys

from worker.dpo.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
