"""Other people's evaluation kits ask this package's models: lmms-eval by `--model llava_visionzip` (docs/kits.md)."""
