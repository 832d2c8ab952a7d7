from .canvas import svg as svg
from .dots import engines_figure as engines_figure
from .dots import outputs_figure as outputs_figure
from .growth import error_growth_svg as error_growth_svg
from .growth import save_error_growth as save_error_growth
from .nights import series_figure as series_figure
from .releases import growth_figure as growth_figure
