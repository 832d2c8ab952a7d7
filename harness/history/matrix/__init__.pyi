from .emulated import EmulatedRelease as EmulatedRelease
from .emulated import is_emulated as is_emulated
from .options import DriftOptions as DriftOptions
from .options import check_planted as check_planted
from .options import select_specs as select_specs
from .run import run_matrix as run_matrix
