"""Pure tensor maths: one value per item, no reduction but :func:`~distil_nlp.functional.reduce.mean_over`."""
