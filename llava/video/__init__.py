"""A video becomes a few frames: files that PyAV decodes, folders of pictures, arrays; all within bounds."""

from llava.video.clip import Clip, UnreadableVideoError
from llava.video.limits import DEFAULT_LIMITS, Limits
from llava.video.reader import check_video, read_clip
from llava.video.sampling import FRAME_RULES, FrameRule, choose_frames
from llava.video.source import VideoSource
from llava.video.video import Video, fetch_video

__all__ = [
    "DEFAULT_LIMITS",
    "FRAME_RULES",
    "Clip",
    "FrameRule",
    "Limits",
    "UnreadableVideoError",
    "Video",
    "VideoSource",
    "check_video",
    "choose_frames",
    "fetch_video",
    "read_clip",
]
