"""`llava redundancy`: how a vision tower's attention is spread over the patches of images, VisionZip's figure 2."""
