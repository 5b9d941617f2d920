"""The job `gesso index`: other people's tars → a collection that points to them."""
