"""Instruction data: LLaVA's JSON, templates that know what is learned, batches, seeded subsets."""
