from .series import NIGHTLY_CONFIDENCE as NIGHTLY_CONFIDENCE
from .series import nightly_report as nightly_report
