"""Tables of links → filtered, reproducible webdataset shards, by Apache Beam. No torch, no faiss."""
