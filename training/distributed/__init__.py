"""Several processes: who they are, and how a model is spread over them."""
