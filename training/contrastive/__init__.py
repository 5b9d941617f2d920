"""A contrastive model of captions and pictures, open_clip's CLIP, which ranks candidates (DALL-E paper, 2.6)."""
