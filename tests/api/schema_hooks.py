"""For schemathesis: how to send an import's body."""

import gzip
import json
from typing import Any

import schemathesis


def _lines(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return _lines(value)


@schemathesis.serializer("application/gzip")
def gzipped(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return gzip.compress(_lines(value))
