"""`python -m worker`: one worker."""

import os

from app.config import get_settings
from worker.main import run

os.umask(os.umask(0o077) | 0o077)  # what it writes is its owner's alone
run(get_settings())
