"""The saga orchestrator: see README.md for what it does, docs/ for how."""

__version__ = "0.1.0"
