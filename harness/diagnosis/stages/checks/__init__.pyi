from .behind import look_behind as look_behind
from .unseen import try_unseen as try_unseen
