"""The stream of events of this web process."""

from fastapi import FastAPI

from app.events.feed import Feed


def feed_of(app: FastAPI) -> Feed:
    """The app's feed, made at its first use: the app's state holds `engine` and `settings`."""
    if not hasattr(app.state, "feed"):
        app.state.feed = Feed(app.state.engine, app.state.settings)
    return app.state.feed
