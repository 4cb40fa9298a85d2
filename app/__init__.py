"""The Prefloop web server and its domain. Never imports torch or worker."""

__version__ = "0.1.0"
