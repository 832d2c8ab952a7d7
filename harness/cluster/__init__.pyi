from .dispatch import Cluster as Cluster
from .dispatch import opened as opened
from .units import Stage as Stage
from .units import Unit as Unit
