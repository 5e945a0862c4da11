"""From a reference in a recipe to tokenized rows: reading, labels, splits, tasks and their checks."""
