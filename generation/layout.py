"""Names of the files of a bundle and of generated pictures. Imports nothing."""

MODEL = "model.json"  # of a bundle, written last
PRIOR_WEIGHTS, DVAE_WEIGHTS, RANKER_WEIGHTS = "prior.safetensors", "dvae.safetensors", "ranker.safetensors"

GENERATED = "generated.json"  # of generated pictures, written last
PLAN = "generating.json"  # what they are made of, written first
SHEET, GAIN = "contact_sheet.png", "gain.png"


def folder_name(caption: int) -> str:
    """The folder of a caption's pictures."""
    return f"{caption:05d}"


def picture_name(caption: int, rank: int) -> str:
    return f"{folder_name(caption)}/{rank:02d}.png"
