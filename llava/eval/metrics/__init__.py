"""The benchmarks' scoring rules, one file a metric: functions of texts and references that know no model and no file.

Each rule is the one that the benchmark's own scorer applies, its surprises included; where two public scorers differ
(LLaVA's scripts, a benchmark's official tool, lmms-eval), the module says in what.
"""

from __future__ import annotations
