"""Makes TensorFlow look as if it were not installed, as on many machines: its import takes seconds.

Python imports this file at the start of each process that has its directory in PYTHONPATH. Neither
None in `sys.modules` nor a finder that raises would look the same: TFDS checks both.
"""

import importlib.machinery

_find_spec = importlib.machinery.PathFinder.find_spec


def _find_all_but_tensorflow(name, path=None, target=None):
    return None if name.split(".")[0] == "tensorflow" else _find_spec(name, path, target)


importlib.machinery.PathFinder.find_spec = staticmethod(_find_all_but_tensorflow)
