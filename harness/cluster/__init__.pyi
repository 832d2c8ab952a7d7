from .dispatch import Cluster as Cluster
from .dispatch import Kept as Kept
from .dispatch import open_cluster as open_cluster
from .units import CaseUnit as CaseUnit
from .units import OnStage as OnStage
from .units import Unit as Unit
from .units import files_of as files_of
