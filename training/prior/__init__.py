"""The prior: a sparse transformer over caption and image tokens (DALL-E paper, arXiv 2102.12092, section 2.2)."""
