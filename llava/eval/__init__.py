"""Evaluation: `python -m llava.eval` runs tasks; `python -m llava.eval.run_llava` asks one question."""
