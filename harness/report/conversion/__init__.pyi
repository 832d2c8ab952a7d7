from .console import check_text as check_text
from .console import print_check as print_check
from .documents import check_markdown as check_markdown
from .documents import check_page as check_page
from .view import check_errors as check_errors
