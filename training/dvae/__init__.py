"""The discrete VAE: pictures → grids of codes → pictures (DALL-E paper, section 2.1 and appendix A)."""
