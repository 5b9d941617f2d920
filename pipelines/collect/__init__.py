"""`gesso collect`: tables of links → filtered, reproducible webdataset shards. No torch, no faiss."""
