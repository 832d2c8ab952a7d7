from .baked import find_baked_behind as find_baked_behind
from .hidden import find_hidden as find_hidden
from .inputs import idle_inputs as idle_inputs
from .inputs import slow_nodes as slow_nodes
from .scores import take_scores as take_scores
from .shapes import check_shapes as check_shapes
from .sums import cost_of_sums as cost_of_sums
