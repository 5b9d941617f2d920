"""`gesso match` and `gesso repeats`: searches among embeddings, in parts that are committed one by one."""
