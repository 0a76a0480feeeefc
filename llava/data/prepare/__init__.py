"""Gets LLaVA's training data: annotations and the public image sets that they name (`python -m llava.data.prepare`)."""
