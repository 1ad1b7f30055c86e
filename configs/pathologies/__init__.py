"""Small runs that go wrong in one known way each, and healthy ones beside them.

Each file has `get_config()`, `EXPECTED`, the finding that the doctor must have (None where the run
is healthy), and, where the images are at fault, `spoil(train, test)`, which makes them so. `make
doctor-table` trains them all on Fashion-MNIST and compares.
"""
