"""Small runs on Fashion-MNIST that each go wrong in one known way, and healthy runs to compare.

    make doctor-table

This command trains all of them and checks that the doctor names each fault; results:
docs/reference/doctor.md. Each file defines `get_config()` and `EXPECTED`, the finding that the
doctor must report, or None for a healthy run. If the fault is in the images, it also defines
`spoil(train, test)`, which puts the fault into them.
"""
