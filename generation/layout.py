"""Names of the files of a bundle and of generated pictures. Imports nothing."""

MODEL = "model.json"  # of a bundle, written last
PRIOR_WEIGHTS, DVAE_WEIGHTS, RANKER_WEIGHTS = "prior.safetensors", "dvae.safetensors", "ranker.safetensors"

GENERATED = "generated.json"  # of generated pictures, written last
RECORD = "pictures.json"  # of a caption's pictures, written when they are all there
SHEET, GAIN = "contact_sheet.png", "gain.png"
CHUNK = "gesso"  # the keyword of a picture's text


def record_name(caption: int) -> str:
    return f"{caption:05d}/{RECORD}"


def picture_name(caption: int, rank: int) -> str:
    return f"{caption:05d}/{rank:02d}.png"
