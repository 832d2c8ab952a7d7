from .machines import FactChange as FactChange
from .series import NIGHTLY_CONFIDENCE as NIGHTLY_CONFIDENCE
from .series import nightly_report as nightly_report
from .steps import Series as Series
