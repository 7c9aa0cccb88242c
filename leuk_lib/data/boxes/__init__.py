"""Annotated fields of view: boxes in COCO, YOLO, Pascal VOC and Raabin's JSON, cut into single cells.

The files are read with the standard library, because two libraries mishandle the faults of published sets (pycocotools
2.0.11, supervision 0.31.2): pycocotools loses the first of two boxes with one number and passes NaN, unknown
categories and repeated images on; supervision refuses a whole set at its first fault and reads YOLO rows with attributes
as polygons, which gives boxes outside the field. Neither counts what it leaves out.
"""
