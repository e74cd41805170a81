"""diffbook: the Differential Transformer (arXiv 2410.05258) to understand and to check.

The package behind the book. Each arrow goes one way, nothing lower imports anything higher::

    mechanism -> model -> run -> measure -> record -> page
    attention    model    train  measure    records   show

Heavy parts are imported where they are used: ``import diffbook`` alone costs nothing.
"""

__version__ = "0.1.0"
