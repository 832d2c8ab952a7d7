from .render import diagnosis_markdown as diagnosis_markdown
from .render import diagnosis_page as diagnosis_page
from .render import load_diagnosis_page as load_diagnosis_page
from .render import print_diagnosis as print_diagnosis
