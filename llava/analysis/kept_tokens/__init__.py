"""`llava kept-tokens`: which patches of images each budget keeps and which it merges, in words and as a picture."""
