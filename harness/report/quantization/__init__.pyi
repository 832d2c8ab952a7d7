from .console import print_pairs as print_pairs
from .console import print_quantization as print_quantization
from .page import pairs_markdown as pairs_markdown
from .page import pairs_page as pairs_page
from .page import quantization_page as quantization_page
