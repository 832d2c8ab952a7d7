from .case import Case as Case
from .case import load_case as load_case
from .case import load_cases as load_cases
from .conversion import CheckReport as CheckReport
from .conversion import check as check
from .diagnosis import Diagnosis as Diagnosis
from .diagnosis import diagnose as diagnose
from .errors import HarnessError as HarnessError
from .history import DriftOptions as DriftOptions
from .history import DriftReport as DriftReport
from .history import drift as drift
from .history import load_history as load_history
from .judge import Given as Given
from .judge import JudgeOptions as JudgeOptions
from .judge import RunReport as RunReport
from .judge import RunResult as RunResult
from .judge import Verdict as Verdict
from .judge import compare as compare
from .judge import run as run
from .tensors import Precision as Precision

__version__: str
