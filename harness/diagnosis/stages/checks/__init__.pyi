from .behind import look_behind as look_behind
from .own_kernels import with_own_kernels as with_own_kernels
from .unseen import FEW_WIDENINGS as FEW_WIDENINGS
from .unseen import MANY_WIDENINGS as MANY_WIDENINGS
from .unseen import try_unseen as try_unseen
