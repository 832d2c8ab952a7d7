from .console import failure_text as failure_text
from .console import print_report as print_report
from .documents import run_markdown as run_markdown
from .documents import run_page as run_page
from .view import attention as attention
from .view import deciding_error as deciding_error
from .words import LOOKS as LOOKS
