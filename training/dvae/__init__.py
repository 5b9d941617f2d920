"""The discrete VAE: pictures → grids of codes → pictures (paper section 2)."""
