"""Servers of pages that answer while a test runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gesso import web


@contextmanager
def answering(server: web.Server) -> Iterator[None]:
    """Answers in a thread, until the end."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
