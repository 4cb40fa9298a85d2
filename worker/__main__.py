"""`python -m worker`: one worker."""

from app.config import get_settings
from worker.main import run

run(get_settings())
