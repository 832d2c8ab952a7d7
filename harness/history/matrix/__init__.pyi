from .emulated import UNIT_ROUNDOFF as UNIT_ROUNDOFF
from .emulated import EmulatedBuild as EmulatedBuild
from .emulated import EmulatedRelease as EmulatedRelease
from .emulated import is_emulated as is_emulated
from .plants import check_plants as check_plants
from .run import DriftOptions as DriftOptions
from .run import run_matrix as run_matrix
from .run import select_specs as select_specs
