"""Class names of the datasets that have them."""

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
    """Returns the name of a class, such as 'bag', or 'class 8' if no name is known."""
    names = CLASSES.get(dataset, ())
    return names[label] if label < len(names) else f"class {label}"
