from .behind import look_for_hidden as look_for_hidden
from .own_kernels import ask_for_kernels as ask_for_kernels
from .own_kernels import with_own_kernels as with_own_kernels
from .unseen import try_fresh as try_fresh
