from .checking import check as check
from .findings import CheckReport as CheckReport
from .findings import CheckResult as CheckResult
from .findings import EnvironmentResult as EnvironmentResult
from .findings import Finding as Finding
from .findings import FoundBy as FoundBy
from .findings import Outcome as Outcome
