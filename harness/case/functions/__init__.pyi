from .calls import OWN as OWN
from .calls import UserFunction as UserFunction
from .calls import owner_of as owner_of
from .settings import CONFIG_NAME as CONFIG_NAME
from .settings import FunctionSettings as FunctionSettings
from .settings import find_config as find_config
from .settings import read_config as read_config
