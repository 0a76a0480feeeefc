"""Instruction data: preparing, reading and validating LLaVA's JSON, templates that know what is learned, batches."""
