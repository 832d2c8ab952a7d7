from .masks import Breaks as Breaks
from .masks import masking_numbers as masking_numbers
from .table import CURES as CURES
