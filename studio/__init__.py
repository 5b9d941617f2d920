"""A page on loopback on which a person generates pictures."""
