#!/bin/sh
# get_fashion_mnist.sh PYTHON DATA_DIR: writes Fashion-MNIST as arrays to DATA_DIR/fashion_mnist.
#
# With a network, TensorFlow Datasets downloads it. Without one it would retry for minutes, so this
# script installs Debian's package of the same images from the configured apt mirror instead.
set -eu
python=$1 data_dir=$2
package=dataset-fashion-mnist
url=http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz

online() {
    "$python" - "$url" <<'PY' 2>/dev/null
import sys
import urllib.request

urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5)
PY
}

debian=/usr/share/datasets/fashion-mnist
if [ ! -f "$debian/train-images-idx3-ubyte.gz" ] && ! online; then
    echo "No network for TensorFlow Datasets: installing Debian's $package."
    "$(dirname "$0")/apt_install.sh" "$package" || {
        echo "Fashion-MNIST is not available here. Three ways to get it:" >&2
        echo "  1. place {train,test}_images.npy, uint8 [N,28,28,1], in $data_dir/fashion_mnist;" >&2
        echo "  2. apt-get install $package;" >&2
        echo "  3. run 'python -m vae_jax.data fashion_mnist' once with a network." >&2
        exit 1
    }
fi
exec "$python" -m vae_jax.data fashion_mnist --data_dir="$data_dir"
