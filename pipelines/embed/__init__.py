"""`gesso embed`: shards or pictures → contrastive embeddings."""
