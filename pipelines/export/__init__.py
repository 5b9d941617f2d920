"""`gesso export`: shards less drop lists → clean, shuffled shards and a validation split."""
