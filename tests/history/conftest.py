import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the test of the whole tree
sys.path.insert(0, str(HERE.parent / "report"))  # reports of made-up drift
sys.path.insert(0, str(HERE.parent / "model"))  # the graphs that several rooms are tested with
