from .console import print_drift as print_drift
from .github import annotate as annotate
from .github import drift_markdown as drift_markdown
from .page import drift_page as drift_page
