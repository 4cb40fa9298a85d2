"""A verdict in its parts: what was judged, the figures of it, and how they read."""
