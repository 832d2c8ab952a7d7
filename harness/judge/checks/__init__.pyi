from .inputs import idle_inputs as idle_inputs
