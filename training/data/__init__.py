"""Training data from an export: order, reading, decoding, augmentation. No torch but in loader.py."""
