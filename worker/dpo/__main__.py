"""`python -m worker.dpo train|score|generate|margins|merge|export|estimate|rates`: the engine as a program of its own."""

import sys

from worker.dpo.machine.threads import spin_briefly

# Before anything loads torch.
spin_briefly()

from worker.dpo.commands.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
