"""The generated factory line: images, labels and the bundled model."""
