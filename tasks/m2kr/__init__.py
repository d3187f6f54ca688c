"""M2KR: find the passage that answers a question, goes with an image, or both.

::

    subsets        the ten parts of M2KR: folders, image paths, protocols, published measures
    tables         the Parquet folders as they were released: files, columns, rows
    images         the images that rows name
    queries        rows -> queries and judgments
    prepare        the files of a subset -> a dataset store
    pseudo_recall  whether a retrieved passage contains an answer
    task           the tasks ``m2kr/<subset>``, and ``m2kr`` for all of them
    sample         the task ``m2kr/sample``
"""

from __future__ import annotations
