"""Clean models in the style of public ones, many of them: nothing that harness says of them may be an alarm."""
