"""From captions to pictures: cached decoding, sampling, re-ranking."""
