from .behind import look_behind as look_behind
from .own_kernels import with_own_kernels as with_own_kernels
from .unseen import try_unseen as try_unseen
