"""brimful keeps the accelerator filled to the brim: YOLO models, images in, detections out."""
