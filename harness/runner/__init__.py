"""One run: load, check, index, search, evaluate, save; resumable at every step."""

from __future__ import annotations

from harness.runner.run import assist, check_capabilities, run

__all__ = ["assist", "check_capabilities", "run"]
