//! Images in, answers out: decoding, resizing, labels, boxes, keypoints, masks and overlays.
