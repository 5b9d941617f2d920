"""A dataset on disk: names, columns, shards, markers, manifests, embeddings, an export. No Beam, no torch."""
