"""The commands: `sparselt reproduce | data | report | bench | doctor`, and `python -m sparselt.reproduce`."""
