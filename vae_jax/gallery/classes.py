"""Names of classes, where a data set has them."""

CLASSES = {
    "fashion_mnist": (
        *("T-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}


def class_name(dataset: str, label: int) -> str:
    """'bag', or 'class 8' where no name is known."""
    names = CLASSES.get(dataset, ())
    return names[label] if label < len(names) else f"class {label}"
