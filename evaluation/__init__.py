"""Generated pictures against real ones: FID, Inception Score, KID, CLIP score."""
