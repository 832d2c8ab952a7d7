from .choices import Choices as Choices
