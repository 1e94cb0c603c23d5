"""One file per task: from what a model found in a batch to the Detections of each image."""
