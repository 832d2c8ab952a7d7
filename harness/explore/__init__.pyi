from .session import Session as Session
from .session import open_session as open_session
from .shell import Shell as Shell
