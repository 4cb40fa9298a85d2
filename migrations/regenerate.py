"""Writes 0001 anew from the models. For use before the first release only."""
import os, pathlib, subprocess, sys, tempfile
root = pathlib.Path(__file__).parent.parent
for old in (root / "migrations/versions").glob("0001_*.py"):
    old.unlink()
with tempfile.TemporaryDirectory() as folder:
    env = os.environ | {"PREFLOOP_DATA_DIR": folder, "PREFLOOP_DATABASE_URL": ""}
    subprocess.run([sys.executable, "-m", "alembic", "revision", "--autogenerate", "--rev-id", "0001", "-m", "initial"], check=True, cwd=root, env=env)
path = root / "migrations/versions/0001_initial.py"
text = path.read_text()
import re
text = re.sub(r"app\.models\.base\.UTCDateTime\(timezone=True\)", "UTCDateTime()", text)
text = re.sub(r"sa\.JSON\(\)\.with_variant\([^\n]*?'postgresql'\)", "Json", text)
text = text.replace("from alembic import op\n", "from alembic import op\n\nfrom app.models.base import Json, UTCDateTime\n", 1)
path.write_text(text)
subprocess.run([str(pathlib.Path(sys.executable).parent / "ruff"), "format", "-q", str(path)], check=False)
subprocess.run([str(pathlib.Path(sys.executable).parent / "ruff"), "check", "-q", "--fix", "--select", "I,F401", str(path)], check=False)
