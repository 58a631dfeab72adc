"""The published open-world benchmarks, built from a user's folders of Pascal VOC and COCO."""
