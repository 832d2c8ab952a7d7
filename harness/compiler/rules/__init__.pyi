from .table import RULES as RULES
from .table import match_rules as match_rules
from .types import Match as Match
from .types import Rule as Rule
from .versions import BAKED_SIZE as BAKED_SIZE
from .versions import TF32 as TF32
from .view import GraphView as GraphView
