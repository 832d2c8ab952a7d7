from .dispatch import Cluster as Cluster
from .dispatch import Kept as Kept
from .dispatch import opened as opened
from .units import CaseUnit as CaseUnit
from .units import Stage as Stage
from .units import Unit as Unit
from .units import files_of as files_of
