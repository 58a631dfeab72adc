"""Augmentation of whole batches on the device they are on, one set of parameters a sample.

Every parameter is a function of (seed, step, sample id, view) (`sslcore.random`), so a sample is changed alike in any
batch, on any number of workers or processes, and after a resume. `RandomView` makes one view; multi-crop is several.
"""

from sslcore.augment.blur import gaussian_blur
from sslcore.augment.colour import adjust_colour_, adjust_hue_, grayscale_, solarize_
from sslcore.augment.crop import crop_box, crop_boxes
from sslcore.augment.evaluate import EvalView
from sslcore.augment.files import crop_file_image
from sslcore.augment.frames import center_crop_frames, random_crop_frames, shift_frames
from sslcore.augment.resize import resize_crops
from sslcore.augment.view import RandomView, ViewSpec

__all__ = [
    "EvalView",
    "RandomView",
    "ViewSpec",
    "adjust_colour_",
    "adjust_hue_",
    "center_crop_frames",
    "crop_box",
    "crop_boxes",
    "crop_file_image",
    "gaussian_blur",
    "grayscale_",
    "random_crop_frames",
    "resize_crops",
    "shift_frames",
    "solarize_",
]
