"""Where things of this checkout lie. The only place in `app` that asks for its own file."""

from pathlib import Path

APP = Path(__file__).resolve().parent
ROOT = APP.parent
TEMPLATES = ROOT / "templates"
STATIC = APP / "static"
VENDOR = STATIC / "vendor"
DEMO_CONTENT = APP / "demo"
MIGRATIONS = ROOT / "migrations"
