"""The experiment `one_shot`: its driver, what it varies, and its section of the report."""
