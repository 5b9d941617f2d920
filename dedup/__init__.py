"""Contrastive embeddings, the near-duplicate detector, exact nearest neighbours, a person's review. No Beam."""
