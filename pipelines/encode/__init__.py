"""`gesso encode`: clean shards → captions and grids of codes."""
