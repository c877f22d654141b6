import sys
from pathlib import Path

# The examples are not installed with the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
