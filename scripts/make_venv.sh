#!/bin/sh
# make_venv.sh PYTHON DIRECTORY: creates a virtual environment of Python 3.11 to 3.13, if missing.
set -eu
python=$1 directory=$2
[ -x "$directory/bin/python" ] && "$directory/bin/python" -m pip --version >/dev/null 2>&1 && exit 0
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "$python is not Python 3.11 to 3.13. Name one that is: make demo PYTHON=python3.12" >&2
    exit 1
}
"$python" -m venv "$directory" >/dev/null 2>&1 && exit 0
# Debian and Ubuntu ship Python without ensurepip, which this package contains.
package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
echo "installing $package"
"$(dirname "$0")/apt_install.sh" "$package" || {
    echo "$python cannot create virtual environments: install $package (or python3-venv)." >&2
    exit 1
}
exec "$python" -m venv --clear "$directory"
