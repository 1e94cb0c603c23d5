"""Pictures: images and videos with their detections drawn in, and crops of the boxes."""
