"""Names and numbers shared by every room of the package; those that LLaVA has too have LLaVA's values."""

CONTROLLER_HEART_BEAT_EXPIRATION = 30
"""Seconds after which a serving worker that sends no heart beat counts as gone."""

WORKER_HEART_BEAT_INTERVAL = 15
"""Seconds between two heart beats of a serving worker."""

LOGDIR = "."

IGNORE_INDEX = -100
"""Label of a token that takes no part in the loss."""

IMAGE_TOKEN_INDEX = -200
"""Id that stands for one image in `input_ids`; it is in no vocabulary."""

DEFAULT_IMAGE_TOKEN = "<image>"
"""What stands for one image in a prompt."""

DEFAULT_VIDEO_TOKEN = "<video>"
"""What stands for one video in a question; the prompt has as many `<image>` as the model's family gives a video."""

DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"

IMAGE_PLACEHOLDER = "<image-placeholder>"
"""What a user's question may hold where the image belongs; the command line replaces it."""

DEFAULT_MAX_PIXELS = 89_478_485
"""Images with more pixels than this are refused: the size above which Pillow itself begins to warn."""

SDPA_BY_SAMPLE = "sdpa_by_sample"
"""The attention implementation of packed rows; see `llava.model.sdpa_by_sample`."""

MOST_BEAMS = 1024
"""Of beam search; each takes the memory of a question."""

# Flags of tuning under several budgets, and what each brings along, as `training_args.json` has them.
TUNING_FLAGS: dict[str, tuple[str, ...]] = {
    "compression_schedule": ("compression_start", "compression_share"),
    "compression_draw": (),
    "distill_from": ("distill_weight", "distill_temperature", "distill_teacher"),
}
