"""An example of what you can bring to sparselt: a model, a data source, a setting, a criterion and an experiment."""
