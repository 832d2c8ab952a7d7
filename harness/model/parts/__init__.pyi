from .gains import Gains as Gains
from .gains import gains_of as gains_of
from .joined import Part as Part
from .joined import is_joined as is_joined
from .joined import parts_of as parts_of
from .steps import zero_point_of as zero_point_of
