"""The process that understands a file's lines for the one that stores their pairs: see `apart`."""

import sys

from app.starting import importing

with importing():
    from app.services.collecting.imports.reading.apart import serve

serve(int(sys.argv[1]))
