from .table import CURES as CURES
